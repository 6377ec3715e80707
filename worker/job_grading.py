"""A job's grading as a whole: its grader with what this machine offers, its budgets and limits."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from jobs.errors import GraderInvalid, JobFailure, Unavailable
from jobs.graders import GraderSpec, Means
from jobs.graders.multi import Multi
from jobs.graders.ports import Models
from jobs.graders.sandbox.pools import on_behalf_of
from jobs.graders.settings import GraderSettings
from jobs.models import Job
from jobs.settings import get_settings
from jobs.spec import JobSpec, component_weights
from jobs.status import Reason
from worker.grader_models import TrainerModels
from worker.grading import Grading
from worker.grpo.types import StepResult
from worker.judging import KeptAnswers, Spending
from worker.prompts import PromptRenderer

log = logging.getLogger(__name__)


class JobGrading:
    """What a trainer needs to grade; closing it ends processes, connections and waits."""

    def __init__(self, job: Job, spec: JobSpec, sessions: sessionmaker[Session]) -> None:
        self.spec = spec
        self.spending = Spending(spec.limits, job.spent)
        self.models = TrainerModels(get_settings())
        means = means_here(self.models)
        self.means = means.kept_in(KeptAnswers(sessions, job.id), self.spending)
        self.grader = grader_of(spec, self.means, job.project_id)

    def start(self, renderer: PromptRenderer) -> Grading:
        """The grading that the engine calls."""
        on_error = self.spec.hyperparameters.on_grader_error
        self.grading = Grading(self.grader, renderer, on_error=on_error)
        return self.grading

    def weights(self) -> dict[str, float]:
        """What each component weighs in the reward; a grader alone is all of it."""
        if isinstance(self.grader, Multi):
            return component_weights(self.grader)
        return {self.grader.name: 1.0}

    def spent(self) -> dict[str, Any]:
        """What the job has spent of its limits, as its row keeps it."""
        return self.spending.so_far().model_dump()

    def check(self, result: StepResult, history: dict[str, Any]) -> None:
        """Raise JobFailure when too many of a finished step's grades failed.

        The counts of the last steps are kept in `history`, which a resume takes up.
        """
        self.grading.check_step(result.drawn, result.evaluation)
        self.grading.check_budget(
            result.drawn,
            history.setdefault("grader_errors", []),
            max_ratio=self.spec.hyperparameters.max_grader_error_ratio,
        )

    def close(self) -> None:
        """Fail what is under way."""
        self.grading.close()
        self.means.close()
        self.models.close()


def means_here(models: Models) -> Means:
    """What this machine's settings offer to graders. Raises JobFailure where they are at fault."""
    try:
        return Means.of(GraderSettings(), models=models)
    except ValueError as error:
        # Whose job it is did not write these settings, and need not see them.
        log.error("the settings for graders cannot be used: %s", error)
        raise JobFailure(
            Reason.GRADER_FAILED,
            "This worker's settings for graders cannot be used; its log tells the operator why. "
            "Make the job again once they are mended.",
        ) from None


def grader_of(spec: JobSpec, means: Means, project_id: str) -> GraderSpec:
    """The project's job's grader, bound to what this machine offers. Raises JobFailure."""
    try:
        with on_behalf_of(project_id):
            grader = spec.grader(means)
        grader.check()
        return grader
    except (GraderInvalid, Unavailable) as error:
        # Checked when the job was made; this machine, or what it has, is another one.
        raise JobFailure(
            Reason.GRADER_FAILED,
            f"The grader cannot be used on this worker: {error.message.rstrip('.')}.",
            param="method.reinforcement.grader",
        ) from None
