"""What a step counts: its time, and every grade of it by the grader's type and error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from jobs import ids
from jobs.artifacts import ArtifactStore
from jobs.datasets import Row
from jobs.db import transaction
from jobs.graders import parse_grader
from jobs.models import Job
from jobs.store import attempts, jobs, projects, tallies, validation
from jobs.store.tallies import Tallies
from worker import report
from worker.grpo.types import Graded, Group, Prompt, Rollout, StepResult
from worker.report import Reporter
from worker.tallying import count_step

Sessions = sessionmaker[Session]


MULTI = parse_grader(
    {
        "type": "multi",
        "graders": {
            "right": {
                "type": "string_check",
                "operation": "eq",
                "input": "{{sample.output_text}}",
                "reference": "{{item.n}}",
            },
            "short": {"type": "length", "unit": "words", "max": 3},
        },
        "calculate_output": "right + short",
    }
)


def numbers(counted: Tallies) -> dict[tuple[str, str], float]:
    return {(str(row["name"]), str(row["labels"])): float(row["value"]) for row in counted.rows()}


def graded(seconds: float, *errors: str, **part_errors: str) -> Graded:
    """A grade of MULTI whose `right` took so long."""
    return Graded(
        reward=None if errors else 1.0,
        components={},
        errors=dict.fromkeys(errors, 1),
        seconds=seconds,
        text="",
        part_seconds={"right": seconds, "short": 0.004},
        part_errors={name: (code,) for name, code in part_errors.items()},
    )


def step_of(step: int, train: list[Graded], valid: list[Graded]) -> StepResult:
    rollouts = [Rollout(0, index, [7], [0.0], "stop", [True]) for index in range(len(train))]
    prompt = Prompt(0, [1], Row(1, [], {}))
    groups = [Group(prompt, rollouts, train, [0.0] * len(train))] if train else []
    seconds: Any = {}
    evaluation: Any = SimpleNamespace(reward=1.0, rewards=[], graded=valid, sampled=[valid])
    return StepResult(step, {"step_time": 9.0}, groups, groups, evaluation, seconds)


def test_components_count_by_their_types_and_errors_once() -> None:
    failed = graded(0.02, "sample_parse_error", "formula_parse_error", right="sample_parse_error")
    step = step_of(1, [graded(0.004), failed], [graded(3.0)])
    count_step(counted := Tallies(), step, MULTI)
    assert numbers(counted) == {
        ("grpo_job_step_seconds", "{}"): 9.0,
        ("grpo_job_step_seconds", '{"le": "10.0"}'): 1,
        ("grpo_reward_call_seconds", '{"kind": "length"}'): pytest.approx(0.016),
        ("grpo_reward_call_seconds", '{"kind": "length", "le": "0.005"}'): 4,
        ("grpo_reward_call_seconds", '{"kind": "string_check"}'): pytest.approx(6.024),
        ("grpo_reward_call_seconds", '{"kind": "string_check", "le": "0.005"}'): 1,
        ("grpo_reward_call_seconds", '{"kind": "string_check", "le": "0.025"}'): 1,
        ("grpo_reward_call_seconds", '{"kind": "string_check", "le": "10.0"}'): 2,
        ("grpo_reward_errors_total", '{"code": "formula_parse_error"}'): 1,
        ("grpo_reward_errors_total", '{"code": "sample_parse_error"}'): 1,
    }


def test_an_evaluation_before_the_first_update_is_no_step() -> None:
    count_step(counted := Tallies(), step_of(0, [], [graded(1.0)]), MULTI)
    assert {name for name, _ in numbers(counted)} == {"grpo_reward_call_seconds"}


@contextmanager
def committing(commit: Callable[[Session], None], factory: Sessions) -> Iterator[Session]:
    """`transaction`, with a commit of the test's own."""
    with factory() as session:
        yield session
        commit(session)


@pytest.mark.on_both_databases
def test_a_commit_whose_answer_is_lost_counts_once(
    sessions: Sessions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RETRY_SECONDS", 0.0)
    job = Job(id=ids.new_id(ids.JOB), spec={}, model="m", training_file="file-a", seed=1)
    with transaction(sessions) as session:
        job.project_id = projects.ensure_project(session, "default").id
        jobs.add(session, job)
        validation.admit(session, job.id, resolved={})
        claimed = attempts.claim(session, worker="w", lease_seconds=60)
    assert claimed is not None
    reporter = Reporter(sessions, ArtifactStore(tmp_path / "artifacts"), claimed, MULTI)
    commit, num_lost = Session.commit, 0

    def lossy(session: Session) -> None:
        nonlocal num_lost
        commit(session)
        if not num_lost:
            num_lost += 1
            raise OperationalError("COMMIT", {}, ConnectionError("the answer is lost"))

    with monkeypatch.context() as patched:
        patched.setattr(report, "transaction", partial(committing, lossy))
        reporter.step(step_of(1, [graded(1.0)], []), total_steps=2, seconds_left=None, spent={})
        reporter.wait()
    assert num_lost == 1
    reporter.step(step_of(2, [graded(1.0)], []), total_steps=2, seconds_left=None, spent={})
    reporter.wait()
    with sessions() as session:
        found = {name: value for name, labels, value in tallies.read(session) if not labels}
    assert found["grpo_job_step_seconds"] == 18.0
