"""Tallies: exact whoever counts, counted with their transaction or not at all."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs.db import transaction
from jobs.monitoring import LOSSES, QUEUE_SECONDS, REWARD_ERRORS
from jobs.store import tallies

pytestmark = pytest.mark.on_both_databases

Sessions = sessionmaker[Session]

THREADS, TIMES = 4, 10


def counted(sessions: Sessions) -> dict[tuple[str, str], float]:
    """The numbers by name and the labels' values."""
    with sessions() as session:
        return {
            (name, ",".join(labels.values())): value
            for name, labels, value in tallies.read(session)
        }


def test_what_is_rolled_back_is_not_counted(sessions: Sessions) -> None:
    with sessions() as session:
        tallies.of(session).count(LOSSES, reason="worker_lost")
        session.rollback()
        tallies.of(session).count(LOSSES, reason="disk_full")
        session.commit()
        session.commit()
    assert counted(sessions) == {("grpo_job_losses_total", "disk_full"): 1}


def test_an_observation_is_in_the_first_bucket_that_holds_it(sessions: Sessions) -> None:
    with transaction(sessions) as session:
        for seconds in (-0.5, 1.0, 1.5, 1e9):
            tallies.of(session).observe(QUEUE_SECONDS, seconds)
    assert counted(sessions) == {
        ("grpo_job_queue_seconds", "1.0"): 2,
        ("grpo_job_queue_seconds", "5.0"): 1,
        ("grpo_job_queue_seconds", "inf"): 1,
        ("grpo_job_queue_seconds", ""): 2.5 + 1e9,
    }


def test_many_count_the_same_in_any_order_and_none_waits_for_ever(sessions: Sessions) -> None:
    codes = ["a", "b", "c", "d"]

    def work(turn: int) -> None:
        for _ in range(TIMES):
            with transaction(sessions) as session:
                for code in codes[turn:] + codes[:turn]:
                    tallies.of(session).count(REWARD_ERRORS, code=code)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    assert set(counted(sessions).values()) == {THREADS * TIMES}
    assert len(counted(sessions)) == len(codes)
