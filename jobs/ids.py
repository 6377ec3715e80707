"""Identifiers as OpenAI's clients know them: a prefix that names the noun, then random hex."""

from __future__ import annotations

import secrets

JOB = "ftjob-"
FILE = "file-"
UPLOAD = "upload_"
PART = "part_"
PERMISSION = "cp_"
CHECKPOINT = "ftckpt_"
EVENT = "ftevent-"
PROJECT = "proj_"
KEY = "key_"


def new_id(prefix: str) -> str:
    """96 random bits behind the prefix: nobody can guess another project's object."""
    return prefix + secrets.token_hex(12)
