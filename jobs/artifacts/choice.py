"""Which store a process uses: the one that its settings name."""

from __future__ import annotations

from jobs.artifacts.base import ArtifactStore
from jobs.artifacts.local import LocalStore
from jobs.settings import Settings


def open_store(settings: Settings) -> ArtifactStore:
    """The bucket of `HONED_ARTIFACTS_URL`, or the data folder. Nothing is asked of it yet."""
    if not settings.artifacts_url:
        return LocalStore(settings.artifacts_dir)
    # Its client takes a fifth of a second to import, which the embedded stack would pay in vain.
    from jobs.artifacts.bucket import BucketStore  # noqa: PLC0415

    return BucketStore(settings)
