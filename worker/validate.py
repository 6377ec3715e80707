"""`python -m worker.validate JOB`: files against grader, template and context length.

It runs off the request and needs no device. It ends the job `failed` with every bad row's line, or
resolves what can be resolved and moves the job to `queued`.
"""

from __future__ import annotations

import sys
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from jobs import resolve
from jobs.artifacts import ArtifactStore
from jobs.datasets import Row, RowFault, read_rows
from jobs.db import connect, session_factory, transaction
from jobs.errors import JobFailure
from jobs.models import File, Job
from jobs.registry import find_model
from jobs.settings import Settings, get_settings
from jobs.spec import JobSpec
from jobs.status import Reason, Status
from jobs.store import validation
from worker import hub
from worker.process_tie import die_with_parent
from worker.prompts import PromptRenderer

MAX_FAULTS_SHOWN = 20


def validate(job_id: str, settings: Settings, sessions: sessionmaker[Session]) -> None:
    """Bring a job from `validating_files` to `queued` or `failed`; once, however often called."""
    with transaction(sessions) as session:
        job = session.get(Job, job_id)
        if job is None or job.status != Status.VALIDATING_FILES:
            return
    try:
        resolved = _resolved(job, settings, sessions)
    except JobFailure as failure:
        with transaction(sessions) as session:
            validation.refuse(session, job_id, failure)
        return
    with transaction(sessions) as session:
        total_steps = resolved["hyperparameters"]["max_steps"]
        validation.admit(session, job_id, resolved=resolved, total_steps=total_steps)


def _resolved(job: Job, settings: Settings, sessions: sessionmaker[Session]) -> dict[str, Any]:
    spec = JobSpec.model_validate(job.spec)
    pinned = hub.pin(job.model, settings)
    renderer = PromptRenderer(hub.tokenizer_folder(pinned, settings))
    check = FileCheck(spec, renderer, settings, sessions)
    training = check.file(job.training_file, "training_file", Reason.INVALID_TRAINING_FILE)
    held_out: dict[str, Any] | None = None
    if job.validation_file:
        held_out = check.file(
            job.validation_file, "validation_file", Reason.INVALID_VALIDATION_FILE
        )
    known = find_model(job.model, settings)
    hyperparameters = resolve.resolve(
        spec.hyperparameters,
        num_rows=training["num_rows"],
        num_held_out=held_out["num_rows"] if held_out else 0,
        model_learning_rate=known.learning_rate,
    )
    longest = max(part["longest_prompt_tokens"] for part in (training, held_out) if part)
    _check_room(hyperparameters["max_completion_tokens"], longest, renderer.context_length)
    return {
        "model": pinned,
        "context_length": renderer.context_length,
        "longest_prompt_tokens": longest,
        "training": training,
        "validation": held_out,
        "hyperparameters": hyperparameters,
    }


def _check_room(max_completion_tokens: int | str, longest: int, context: int) -> None:
    if isinstance(max_completion_tokens, int) and longest + max_completion_tokens > context:
        raise JobFailure(
            Reason.INVALID_HYPERPARAMETERS,
            f"The longest prompt has {longest} tokens, and with max_completion_tokens "
            f"{max_completion_tokens} that is beyond the model's context of {context}: "
            f"{context - longest} tokens of completion would fit.",
            param="method.reinforcement.hyperparameters.max_completion_tokens",
        )


class FileCheck:
    """Holds each row of a file against the grader, the template and the context length."""

    def __init__(
        self,
        spec: JobSpec,
        renderer: PromptRenderer,
        settings: Settings,
        sessions: sessionmaker[Session],
    ) -> None:
        self.grader = spec.grader()
        self.renderer = renderer
        self.store = ArtifactStore(settings.artifacts_dir)
        self.sessions = sessions

    def file(self, file_id: str, param: str, reason: Reason) -> dict[str, Any]:
        """What is known of a good file. Raises JobFailure with the lines of a bad one."""
        with self.sessions() as session:
            record = session.get(File, file_id)
        path = self.store.upload_path(file_id)
        if record is None or not path.exists():
            raise JobFailure(reason, f"The file {file_id} is no longer there.", param=param)
        faults: list[RowFault] = []
        lengths: list[int] = []
        for row in read_rows(path):
            checked = self._row(row) if isinstance(row, Row) else row
            if isinstance(checked, RowFault):
                faults.append(checked)
            else:
                lengths.append(checked)
        if faults:
            raise JobFailure(reason, _sentence(record.filename, faults), param=param)
        if not lengths:
            raise JobFailure(reason, f"The file {record.filename} has no rows.", param=param)
        return {
            "file": file_id,
            "sha256": record.sha256,
            "num_rows": len(lengths),
            "longest_prompt_tokens": max(lengths),
        }

    def _row(self, row: Row) -> int | RowFault:
        """The prompt's length in tokens, or what is wrong with the row."""
        missing = self.grader.missing_item_paths(row.item)
        if missing:
            named = ", ".join(f"'{path}'" for path in missing)
            return RowFault(row.line, f"the grader reads {named}, which this row does not have")
        try:
            length = len(self.renderer.ids(row.messages))
        except ValueError as error:
            return RowFault(row.line, str(error))
        if length >= self.renderer.context_length:
            return RowFault(
                row.line,
                f"the prompt has {length} tokens and the model's context "
                f"{self.renderer.context_length}: no room is left for an answer",
            )
        return length


def _sentence(filename: str, faults: list[RowFault]) -> str:
    shown = "; ".join(str(fault) for fault in faults[:MAX_FAULTS_SHOWN])
    more = len(faults) - MAX_FAULTS_SHOWN
    count = "1 row" if len(faults) == 1 else f"{len(faults)} rows"
    return f"{filename}: {count} cannot be used. {shown}" + (f"; and {more} more" * (more > 0))


def main() -> None:
    die_with_parent()
    settings = get_settings()
    engine = connect(settings.sqlalchemy_url)
    validate(sys.argv[1], settings, session_factory(engine))
    engine.dispose()


if __name__ == "__main__":
    main()
