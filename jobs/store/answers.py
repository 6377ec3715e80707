"""Judges' answers of a job, by a hash of the question."""

from __future__ import annotations

from sqlalchemy import delete
from sqlalchemy.orm import Session

from jobs.models import Json, JudgeAnswer


def get(session: Session, job_id: str, key: str) -> Json | None:
    """The answer that is kept, or None."""
    found = session.get(JudgeAnswer, (job_id, key))
    return found.answer if found else None


def put(session: Session, job_id: str, key: str, answer: Json) -> None:
    """Keep an answer. The commit raises IntegrityError where there is one by now."""
    session.add(JudgeAnswer(job_id=job_id, key=key, answer=answer))


def forget(session: Session, job_id: str) -> None:
    """Of a job that is over."""
    session.execute(delete(JudgeAnswer).where(JudgeAnswer.job_id == job_id))
