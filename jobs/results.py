"""A job's result file: its metrics as plain CSV, one row a step, made as the job ends."""

from __future__ import annotations

import csv
import io

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from jobs import ids
from jobs.artifacts import ArtifactStore
from jobs.models import File, Job, Json, Metric
from jobs.status import TERMINAL

PURPOSE = "fine-tune-results"
FILENAME = "step_metrics.csv"

# Longer than a store is asked for, with its tries.
STORE_SECONDS = 180

# What readers of OpenAI's result files look for comes first; every other metric follows by name.
FIRST = (
    "step",
    "train_mean_reward",
    "full_valid_mean_reward",
    "completion_tokens_mean",
    "reasoning_tokens_mean",
    "mean_unresponsive_rewards",
)


def write_if_over(session: Session, artifacts: ArtifactStore, job_id: str) -> None:
    """Store the file and name it on the job, in the transaction that moved the job.

    Nothing while the job is not over, or where it made no step. The id follows from the job's:
    should the transaction fail, the next end replaces the bytes.
    """
    job = session.get_one(Job, job_id, populate_existing=True)
    if job.status not in TERMINAL:
        return
    query = select(Metric).where(Metric.job_id == job_id).order_by(Metric.step)
    rows = [{**metric.data, "step": metric.step} for metric in session.scalars(query)]
    if not rows:
        return
    file_id = ids.FILE + job_id.removeprefix(ids.JOB)
    content = as_csv(rows)
    if session.get_bind().dialect.name == "postgresql":
        # A store on another machine may take its time; who is suspended lets go of its locks still.
        session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{STORE_SECONDS}s'"))
    stored = artifacts.put_upload(file_id, io.BytesIO(content), max_bytes=len(content))
    file = File(
        id=file_id,
        project_id=job.project_id,
        filename=FILENAME,
        purpose=PURPOSE,
        num_bytes=stored.num_bytes,
        sha256=stored.sha256,
    )
    session.add(file)
    job.result_file = file_id
    session.flush()


def as_csv(rows: list[Json]) -> bytes:
    """UTF-8 with a header; a cell is empty where a step does not have the number."""
    names = {name for row in rows for name in row}
    columns = [*FIRST, *sorted(names.difference(FIRST))]
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()
