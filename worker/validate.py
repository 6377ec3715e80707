"""`python -m worker.validate JOB`: files against grader, template and context length.

It runs off the request and needs no device. It ends the job `failed` with every bad row's line, or
resolves what can be resolved and moves the job to `queued`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session, sessionmaker

from jobs import resolve
from jobs.artifacts import ArtifactStore
from jobs.datasets import Row, RowFault, read_rows
from jobs.db import connect, session_factory, transaction
from jobs.errors import JobFailure
from jobs.log import configure_for_job
from jobs.models import File, Job
from jobs.registry import find_model
from jobs.settings import Settings, get_settings
from jobs.spec import JobSpec
from jobs.status import Reason, Status
from jobs.store import validation
from worker import forecast, hub, row_faults
from worker.grader_memory import grader_bytes
from worker.grader_models import TrainerModels
from worker.job_grading import grader_of, means_here
from worker.process_tie import die_with_parent
from worker.prompts import PromptRenderer, renderer_of


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
        validation.admit(
            session,
            job_id,
            resolved=resolved,
            total_steps=resolved["hyperparameters"]["max_steps"],
            memory_cpu_bytes=resolved["memory"]["cpu"]["least"],
            memory_cuda_bytes=resolved["memory"]["cuda"]["least"],
        )


def _resolved(job: Job, settings: Settings, sessions: sessionmaker[Session]) -> dict[str, Any]:
    spec = JobSpec.model_validate(job.spec)
    pinned = hub.pin(job.model, settings)
    folder = hub.tokenizer_folder(pinned, settings)
    renderer = renderer_of(spec, folder)
    with closing(FileCheck(job, renderer, settings, sessions)) as check:
        return {"model": pinned, **_with_files(check, job, spec, folder)}


def _with_files(check: FileCheck, job: Job, spec: JobSpec, folder: Path) -> dict[str, Any]:
    settings, context_length = check.settings, check.renderer.context_length
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
    _check_room(hyperparameters["max_completion_tokens"], longest, check.renderer)
    shape = forecast.Shape(folder)
    memory = {
        device: asdict(
            forecast.forecast(
                shape,
                hyperparameters,
                longest_prompt_tokens=longest,
                context_length=context_length,
                device=device,
                grader_bytes=grader_bytes(check.grader, check.means, settings, device=device),
            )
        )
        for device in ("cpu", "cuda")
    }
    return {
        "context_length": context_length,
        "longest_prompt_tokens": longest,
        "training": training,
        "validation": held_out,
        "hyperparameters": hyperparameters,
        "memory": memory,
    }


def _check_room(max_completion_tokens: int | str, longest: int, renderer: PromptRenderer) -> None:
    context = renderer.context_length
    if isinstance(max_completion_tokens, int) and longest + max_completion_tokens > context:
        raise JobFailure(
            Reason.INVALID_HYPERPARAMETERS,
            f"The longest prompt has {longest} tokens, and with max_completion_tokens "
            f"{max_completion_tokens} that is beyond the model's context of "
            f"{context}{renderer.context_note}: {context - longest} tokens of completion would "
            "fit.",
            param="method.reinforcement.hyperparameters.max_completion_tokens",
        )


# Rows that a grader is asked about together.
_BATCH = 192


class FileCheck:
    """Holds each row of a file against the grader, the template and the context length."""

    def __init__(
        self,
        job: Job,
        renderer: PromptRenderer,
        settings: Settings,
        sessions: sessionmaker[Session],
    ) -> None:
        spec = JobSpec.model_validate(job.spec)
        self.means = means_here(TrainerModels(settings))
        self.grader = grader_of(spec, self.means, job.project_id)
        self.renderer = renderer
        self.store = ArtifactStore(settings.artifacts_dir)
        self.sessions = sessions
        self.settings = settings

    def close(self) -> None:
        """End what the grader's checks started."""
        self.means.close()

    def file(self, file_id: str, param: str, reason: Reason) -> dict[str, Any]:
        """What is known of a good file. Raises JobFailure with the lines of a bad one."""
        with self.sessions() as session:
            record = session.get(File, file_id)
        path = self.store.upload_path(file_id)
        if record is None or not path.exists():
            raise JobFailure(reason, f"The file {file_id} is no longer there.", param=param)
        faults: list[RowFault] = []
        lengths: list[int] = []
        rows = read_rows(path)
        while batch := list(islice(rows, _BATCH)):
            for checked in self._checked(batch):
                if isinstance(checked, RowFault):
                    faults.append(checked)
                else:
                    lengths.append(checked)
        if faults:
            told = row_faults.told(faults)
            message = row_faults.sentence(record.filename, faults)
            raise JobFailure(reason, message, param=param, data={"file": file_id, "faults": told})
        if not lengths:
            raise JobFailure(reason, f"The file {record.filename} has no rows.", param=param)
        return {
            "file": file_id,
            "sha256": record.sha256,
            "num_rows": len(lengths),
            "longest_prompt_tokens": max(lengths),
        }

    def _checked(self, batch: Sequence[Row | RowFault]) -> Iterator[int | RowFault]:
        """Of each row the prompt's length in tokens, or what is wrong with it."""
        faults = [self._without_fields(row) if isinstance(row, Row) else row for row in batch]
        pairs = list(zip(batch, faults, strict=True))
        whole = [row.graded for row, fault in pairs if isinstance(row, Row) and fault is None]
        problems = iter(self.grader.row_problems(whole))
        for row, fault in pairs:
            if isinstance(row, RowFault):
                yield row
            elif fault is not None:
                yield fault
            elif problem := next(problems):
                yield RowFault(row.line, f"the grader cannot use it: {problem}")
            else:
                yield self._length(row)

    def _without_fields(self, row: Row) -> RowFault | None:
        missing = self.grader.missing_item_paths(row.graded)
        if missing:
            named = ", ".join(f"'{path}'" for path in missing)
            return RowFault(row.line, f"the grader reads {named}, which this row does not have")
        return None

    def _length(self, row: Row) -> int | RowFault:
        try:
            length = len(self.renderer.ids(row.messages, row.tools))
        except ValueError as error:
            return RowFault(row.line, str(error))
        if length >= self.renderer.context_length:
            return RowFault(
                row.line,
                f"the prompt has {length} tokens and the model's context "
                f"{self.renderer.context_length}{self.renderer.context_note}: no room is left for "
                "an answer",
            )
        return length


def main() -> None:
    die_with_parent()
    configure_for_job("validator", sys.argv[1])
    settings = get_settings()
    engine = connect(settings.sqlalchemy_url)
    validate(sys.argv[1], settings, session_factory(engine))
    engine.dispose()


if __name__ == "__main__":
    main()
