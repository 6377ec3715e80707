"""What a trained model is called, so that a job, its events and its checkpoints say the same."""

from __future__ import annotations

from jobs import ids
from jobs.models import Job


def tuned_model(job: Job) -> str:
    """`ft:{base}:{org}:{suffix}:{id}`; without a suffix its place is empty, as at OpenAI."""
    suffix = job.spec.get("suffix") or ""
    return f"ft:{job.model}:{job.project_id}:{suffix}:{job.id.removeprefix(ids.JOB)}"


def tuned_checkpoint(job: Job, step: int) -> str:
    """The name of the model as it was at a step."""
    return f"{tuned_model(job)}:ckpt-step-{step}"
