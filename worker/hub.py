"""From a model's name to a folder of safetensors: what the hub and its cache on this machine hold.

A model is pinned to a commit in validation, with the names and sizes of its files; from then on
the cache alone says whether all of it is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects

from jobs.errors import HonedError, JobFailure
from jobs.local_models import is_whole
from jobs.registry import find_model
from jobs.settings import Settings
from jobs.status import Reason

# Weights without pickle, and what the tokenizer and the configuration need. No Python files.
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
TOKENIZER_PATTERNS = [pattern for pattern in PATTERNS if "safetensors" not in pattern]
# Other formats of the same weights: exports in folders, and the publisher's own single file.
IGNORED = ["*/*", "consolidated*.safetensors"]

# The client behind huggingface_hub changes with its versions; all that it raises has this base.
HUB_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    *(
        base
        for base in HfHubHTTPError.__mro__
        if issubclass(base, Exception) and base.__name__ == "HTTPError"
    ),
)

Pinned = dict[str, Any]


def pin(name: str, settings: Settings) -> Pinned:
    """Where the model comes from, fixed for the job's life.

    `{name, folder}` of a model on disk; `{name, folder: null, revision, files: {path: {size,
    blob}}}` of one from the hub. Raises JobFailure with what to do when there is no such model, or
    none that is loaded here.
    """
    try:
        known = find_model(name, settings)
    except HonedError as error:
        raise unavailable(error.message) from None
    if known.folder is not None:
        return {"name": name, "folder": str(known.folder), "revision": None}
    repo, _, revision = name.partition("@")
    if settings.offline:
        return {"name": repo, "folder": None, **_cached_listing(repo, revision)}
    return {"name": repo, "folder": None, **_listing(repo, revision)}


def tokenizer_folder(pinned: Pinned, settings: Settings) -> Path:
    """A folder with the model's tokenizer and configuration, fetched where it must be."""
    if pinned["folder"] is not None:
        return Path(pinned["folder"])
    if folder := cached(pinned, TOKENIZER_PATTERNS):
        return folder
    refuse_offline(pinned, settings)
    try:
        return Path(fetch(pinned["name"], pinned["revision"], TOKENIZER_PATTERNS))
    except HUB_ERRORS as error:
        raise unavailable(explain(error, pinned["name"], pinned["revision"])) from error


def fetch(repo: str, revision: str, patterns: list[str]) -> str:
    """Download what is missing of a revision into the cache; the folder. Raises HUB_ERRORS."""
    return str(
        snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=IGNORED)
    )


def cached(pinned: Pinned, patterns: list[str] = PATTERNS) -> Path | None:
    """The folder with the pinned model's files, or None unless the cache holds all of them."""
    folder = _repo_folder(pinned["name"]) / "snapshots" / pinned["revision"]
    wanted = filter_repo_objects(pinned["files"], allow_patterns=patterns)
    is_whole = all(_size(folder / path) == pinned["files"][path]["size"] for path in wanted)
    return folder if is_whole else None


def num_bytes(pinned: Pinned) -> tuple[int, int]:
    """Bytes of the model that the cache holds by now, parts of files included, and all there are.

    Looked up on disk: they also arrive when another process downloads them.
    """
    blobs = _repo_folder(pinned["name"]) / "blobs"
    done = 0
    for file in pinned["files"].values():
        whole = _size(blobs / file["blob"])
        if whole is None:
            # Its parts: some clients make a file as long as it will be before they fill it.
            parts = [path.stat() for path in blobs.glob(f"{file['blob']}*.incomplete")]
            arrived = max((min(part.st_size, part.st_blocks * 512) for part in parts), default=0)
        done += min(arrived if whole is None else whole, file["size"])
    return done, sum(file["size"] for file in pinned["files"].values())


def refuse_offline(pinned: Pinned, settings: Settings) -> None:
    """Raise JobFailure on a machine that must not ask the hub for what its cache does not hold."""
    if settings.offline:
        raise _not_cached(pinned["name"], pinned["revision"])


def explain(error: Exception, repo: str, revision: str) -> str:
    """One sentence on why the hub gave nothing, with what to do."""
    named = f"'{repo}' at revision '{revision}'" if revision else f"'{repo}'"
    if isinstance(error, GatedRepoError):
        return (
            f"The model '{repo}' is gated: accept its terms on the hub with the account of this "
            "server's operator, and set HF_TOKEN for the worker."
        )
    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return (
            f"The model {named} is not on the hub. If it is private, the operator sets HF_TOKEN "
            "for the worker."
        )
    if isinstance(error, OfflineModeIsEnabled):
        return f"The hub may not be asked for {named}: HF_HUB_OFFLINE is set for the worker."
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"The hub could not be asked for {named} ({reason}). If this server has no way out, the "
        "operator sets HONED_OFFLINE=1 and fills the cache with `honed models pull`."
    )


def unavailable(sentence: str) -> JobFailure:
    return JobFailure(Reason.MODEL_NOT_AVAILABLE, sentence, param="model")


def _listing(repo: str, revision: str) -> Pinned:
    """The commit that the revision is now, and what we would download of it."""
    try:
        info = HfApi().model_info(repo, revision=revision or None, timeout=20, files_metadata=True)
    except HUB_ERRORS as error:
        raise unavailable(explain(error, repo, revision)) from error
    siblings = {one.rfilename: one for one in info.siblings or []}
    files = {
        path: {
            "size": siblings[path].size or 0,
            "blob": lfs.sha256 if (lfs := siblings[path].lfs) else siblings[path].blob_id,
        }
        for path in filter_repo_objects(siblings, allow_patterns=PATTERNS, ignore_patterns=IGNORED)
    }
    if not any(path.endswith(".safetensors") for path in files):
        raise unavailable(
            f"The model '{repo}' has no safetensors weights; pickled weights are not loaded here."
        )
    if "config.json" not in files:
        raise unavailable(
            f"'{repo}' has no config.json, so it is no base model by itself; an adapter cannot be "
            "trained further here: name the model it came from."
        )
    return {"revision": info.sha, "files": files}


def _cached_listing(repo: str, revision: str) -> Pinned:
    """What the cache says of the revision, with nobody asked; of none, the newest that is whole."""
    folder = _repo_folder(repo)
    ref = folder / "refs" / revision
    named = ref.read_text().strip() if revision and ref.is_file() else revision
    found = filter(is_whole, folder.glob(f"snapshots/{named or '*'}"))
    snapshot = max(found, key=lambda path: path.stat().st_mtime, default=None)
    if snapshot is None:
        raise _not_cached(repo, revision)
    names = [path.name for path in snapshot.iterdir()]
    files = {
        name: {"size": _size(snapshot / name), "blob": None}
        for name in filter_repo_objects(names, allow_patterns=PATTERNS)
    }
    return {"revision": snapshot.name, "files": files}


def _not_cached(repo: str, revision: str) -> JobFailure:
    at = f" at revision {revision}" if revision else ""
    return unavailable(
        f"The model '{repo}'{at} is not whole in this machine's cache, and it is set to stay "
        "offline (HONED_OFFLINE). `honed models pull` on a machine with a way out fills the cache."
    )


def _repo_folder(repo: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"


def _size(path: Path) -> int | None:
    """A file's length; None when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
