"""`python -m jobs.artifacts.make_bucket`: makes the bucket of the settings, unless it is there."""

from __future__ import annotations

import contextlib
import sys

from jobs.artifacts.objects import Objects
from jobs.errors import StoreAway
from jobs.settings import Settings


def main() -> int:
    """0 when the bucket can be used; else 1, with a sentence."""
    settings = Settings()
    if not settings.artifacts_url:
        sys.stderr.write("HONED_ARTIFACTS_URL names no bucket.\n")
        return 1
    with contextlib.closing(Objects(settings)) as objects:
        try:
            objects.make_bucket()
        except StoreAway as away:
            sys.stderr.write(f"{away}\n")
            return 1
        fault = objects.fault()
    if fault is not None:
        sys.stderr.write(f"{fault}\n")
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main())
