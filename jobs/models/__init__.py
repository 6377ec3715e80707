"""The tables. Times are unix seconds by the database's clock (`jobs.db.now`), in UTC."""

from jobs.models.base import Base, Json
from jobs.models.checkpoints import Checkpoint, CheckpointPermission
from jobs.models.departed import Departed
from jobs.models.files import File, Upload, UploadPart
from jobs.models.jobs import Event, Job, JobMetadata, JudgeAnswer, Metric, SampleSet
from jobs.models.projects import ApiKey, Creation, Project
from jobs.models.tallies import Tally

__all__ = [
    "ApiKey",
    "Base",
    "Checkpoint",
    "CheckpointPermission",
    "Creation",
    "Departed",
    "Event",
    "File",
    "Job",
    "JobMetadata",
    "Json",
    "JudgeAnswer",
    "Metric",
    "Project",
    "SampleSet",
    "Tally",
    "Upload",
    "UploadPart",
]
