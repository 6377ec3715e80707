"""What the trainer process writes about itself, and how long it keeps others from the job's row."""

from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs import artifacts, ids
from jobs.artifacts import LocalStore
from jobs.db import transaction
from jobs.graders import parse_grader
from jobs.models import Checkpoint, Job
from jobs.store import attempts, jobs, projects, validation
from jobs.store.attempts import Claim
from worker.report import Reporter

# SQLite has no row locks.
pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def claimed(sessions: sessionmaker[Session]) -> Claim:
    job = Job(id=ids.new_id(ids.JOB), spec={}, model="m", training_file="file-a", seed=1)
    with transaction(sessions) as session:
        job.project_id = projects.ensure_project(session, "default").id
        jobs.add(session, job)
        validation.admit(session, job.id, resolved={})
        found = attempts.claim(session, worker="w", lease_seconds=60)
    assert found is not None
    return found


def test_the_archive_is_read_while_the_jobs_row_is_free(
    sessions: sessionmaker[Session],
    claimed: Claim,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    digest_of = artifacts.sha256_of

    def watched(path: Path) -> str:
        with sessions() as session:  # raises when somebody holds the row's lock
            session.execute(
                select(Job).where(Job.id == claimed.job_id).with_for_update(nowait=True)
            )
        read.append(path.name)
        return digest_of(path)

    for room in (artifacts, artifacts.manifest):
        monkeypatch.setattr(room, "sha256_of", watched)
    store = LocalStore(tmp_path / "artifacts")

    def write(folder: Path) -> None:
        (folder / "weights").write_bytes(b"w")

    reporter = Reporter(
        sessions,
        store,
        claimed,
        parse_grader(
            {"type": "length", "input": "{{sample.output_text}}", "unit": "words", "max": 3}
        ),
    )
    with transaction(sessions) as session:
        job = session.get_one(Job, claimed.job_id)
        job.num_losses, job.lost = 2, {"reason": "worker_lost"}
    reporter.checkpoint(1, write_adapter=write, write_state=write, row={})
    reporter.wait()

    assert read.count("adapter.tar") == 2, "sealed, and recorded"
    with sessions() as session:
        checkpoint = session.scalars(select(Checkpoint)).one()
        job = session.get_one(Job, claimed.job_id)
    assert (job.num_losses, job.lost) == (0, None), "a saved step ends what was counted"
    archive = store.folder(checkpoint.folder) / "adapter.tar"
    assert checkpoint.archive_sha256 == digest_of(archive)
    assert checkpoint.archive_bytes == archive.stat().st_size
