"""`python -m worker.models list|pull NAME`: the base models of this machine, for `honed models`.

What it prints is for a person; `list` prints JSON lines, which the caller puts into columns.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from huggingface_hub import scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from jobs.errors import JobFailure
from jobs.local_models import is_whole
from jobs.registry import STARTER, known_models
from jobs.settings import Settings
from worker import hub
from worker.download import GB, download

SAY_SECONDS = 2.0
PATIENCE_SECONDS = 60.0


def listed(settings: Settings) -> list[dict[str, str | int]]:
    """The starter, the folders under the operator's roots, and what the hub's cache holds."""
    rows: list[dict[str, str | int]] = []
    for model in known_models(settings):
        assert model.folder is not None
        where = "ships with Honed" if model.name == STARTER else "folder"
        size = sum(path.stat().st_size for path in model.folder.iterdir() if path.is_file())
        rows.append({"name": model.name, "revision": "-", "bytes": size, "where": where})
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return rows
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        for revision in sorted(repo.revisions, key=lambda revision: revision.last_modified):
            if repo.repo_type == "model":
                rows.append(
                    {
                        "name": repo.repo_id,
                        "revision": revision.commit_hash,
                        "bytes": revision.size_on_disk,
                        "where": "cache"
                        if is_whole(Path(revision.snapshot_path))
                        else "cache, weights missing",
                    }
                )
    return rows


def pull(name: str, settings: Settings) -> str:
    """Have the whole model on this machine; a sentence on what is where. Raises JobFailure."""
    pinned = hub.pin(name, settings)
    said_at = 0.0

    def say(done: int, total: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= SAY_SECONDS:
            said_at = time.monotonic()
            sys.stderr.write(f"{done / GB:.2f} of {total / GB:.2f} GB\n")

    folder = download(
        pinned,
        settings,
        progress=say,
        interrupt=lambda: None,
        patience_seconds=PATIENCE_SECONDS,
    )
    at = f" at revision {pinned['revision']}" if pinned["revision"] else ""
    return f"{pinned['name']}{at} is in {folder}"


def main() -> int:
    """Exit code 0, or 1 with a sentence on standard error."""
    settings = Settings()
    if sys.argv[1] == "list":
        for row in listed(settings):
            sys.stdout.write(json.dumps(row) + "\n")
        return 0
    try:
        sys.stdout.write(pull(sys.argv[2], settings) + "\n")
    except JobFailure as failure:
        sys.stderr.write(f"{failure.message}\n")
        return 1
    except ConnectionError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
