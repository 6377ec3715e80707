"""`python -m jobs.graders.schema`: the JSON schema of every grader type, as docs/ keeps it."""

from __future__ import annotations

import json
import sys

from jobs.graders import grader_json_schema


def rendered() -> str:
    """The schema of every definition, each type's under `$defs`."""
    return json.dumps(grader_json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(rendered())
