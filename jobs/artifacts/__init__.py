"""Where bytes live: uploads and what jobs made, in a local folder or in a bucket."""

from jobs.artifacts.base import ADAPTER_ARCHIVE, ArtifactStore, Content, Damaged, Stored
from jobs.artifacts.choice import open_store
from jobs.artifacts.local import LocalStore
from jobs.artifacts.manifest import MANIFEST, fault, is_whole, pack, sha256_of, size_of

__all__ = [
    "ADAPTER_ARCHIVE",
    "MANIFEST",
    "ArtifactStore",
    "Content",
    "Damaged",
    "LocalStore",
    "Stored",
    "fault",
    "is_whole",
    "open_store",
    "pack",
    "sha256_of",
    "size_of",
]
