"""What the models of this machine that a job's grader asks take, beside the trainer's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jobs.errors import JobFailure
from jobs.graders import GraderSpec, Means
from jobs.graders.judges import LocalJudge
from jobs.graders.multi import Multi
from jobs.graders.questions import JudgedGrader
from jobs.graders.reward_model import RewardModel
from jobs.graders.text_similarity import TextSimilarity
from jobs.settings import Settings
from jobs.status import Reason
from worker import hub
from worker.serving import memory


def grader_bytes(grader: GraderSpec, means: Means, settings: Settings, *, device: str) -> int:
    """Memory on `device`, `cpu` or `cuda`, once every such model is loaded.

    Raises JobFailure for a model that is not on this machine.
    """
    # Judges, classifiers and encoders are loaded each for itself, also from the same folder.
    return sum(
        memory.needed_bytes(_folder(name, settings), device)
        for _, name in set(_asked(grader, means, settings))
    )


def _asked(grader: GraderSpec, means: Means, settings: Settings) -> Iterator[tuple[str, str]]:
    """What each component asks, as (kind, model)."""
    match grader:
        case Multi():
            for part in grader.graders.values():
                yield from _asked(part, means, settings)
        case RewardModel():
            yield "classifier", grader.model
        case JudgedGrader() if isinstance(means.judge(grader.model), LocalJudge):
            yield "judge", grader.model
        case TextSimilarity(evaluation_metric="cosine") if means.embedder is None:
            yield "encoder", settings.embedding_model


def _folder(name: str, settings: Settings) -> Path:
    """Where the trainer will load it from: nothing is downloaded for a grader."""
    try:
        pinned = hub.pin(name, settings.model_copy(update={"offline": True}))
    except JobFailure as failure:
        raise JobFailure(
            Reason.GRADER_FAILED,
            f"A model that the grader asks is not on this worker: {failure.message}",
            param="method.reinforcement.grader",
        ) from None
    if pinned["folder"] is not None:
        return Path(pinned["folder"])
    folder = hub.cached(pinned)
    assert folder is not None, "what was pinned offline is whole"
    return folder
