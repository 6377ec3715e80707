"""A python grader in the trainer: refused by name where it cannot run, groups graded whole."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.datasets import Row
from jobs.errors import JobFailure
from jobs.graders import parse_grader
from jobs.graders.means import BARE
from jobs.graders.sandbox import isolation, pools
from jobs.settings import get_settings
from jobs.status import Reason
from worker.grading import Grading
from worker.grpo.types import Prompt, Rollout
from worker.job_grading import grader_of
from worker.prompts import Completion

RANKED = """
def grade_group(samples, item):
    texts = [one["output_text"] for one in samples]
    return [sorted(texts).index(text) + item["base"] for text in texts]
"""


class Renderer:
    """Completions are their ids, as text."""

    def completion(
        self, prompt_ids: list[int], ids: list[int], *, is_cut: bool, tools: Any
    ) -> Completion:
        return Completion(str(ids[0]), None, not is_cut)


def rollout(token: int) -> Rollout:
    return Rollout(0, token, [token], [0.0], "stop", [True])


@pytest.fixture
def no_isolation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(isolation, "LEVELS", ())
    isolation.forget()
    get_settings.cache_clear()
    yield
    isolation.forget()
    get_settings.cache_clear()


def grading(source: str) -> Grading:
    with pools.on_behalf_of("tests"):
        grader = parse_grader({"type": "python", "source": source})
    return Grading(grader, Renderer())  # type: ignore[arg-type]


def test_a_group_is_graded_in_one_call() -> None:
    job = grading(RANKED)
    assert job.is_group_aware
    prompt = Prompt(index=0, ids=[1], payload=Row(line=1, messages=[], item={"base": 10}))
    futures = job.submit_group(prompt, [rollout(7), rollout(3), rollout(5)])
    assert [future.result(30).reward for future in futures] == [12.0, 10.0, 11.0]
    assert [future.result().text for future in futures] == ["7", "3", "5"]
    assert job.submit(prompt, rollout(7)).result(30).reward == 10.0
    job.close()
    assert pools._entries == {}


def test_a_group_that_cannot_be_graded_is_counted_for_each() -> None:
    job = grading("def grade_group(samples, item): return [1.0]")
    prompt = Prompt(index=0, ids=[1], payload=Row(line=1, messages=[], item={}))
    graded = [f.result(30) for f in job.submit_group(prompt, [rollout(1), rollout(2)])]
    assert [one.reward for one in graded] == [None, None]
    assert [one.errors for one in graded] == [{"python_grader_runtime_error": 1}] * 2
    job.close()


def test_a_worker_without_isolation_says_so(no_isolation: None) -> None:
    asked = SimpleNamespace(
        grader=lambda means: parse_grader({"type": "python", "source": RANKED}, means)
    )
    with pytest.raises(JobFailure, match="on this worker: Python graders are off") as failure:
        grader_of(asked, BARE, "tests")  # type: ignore[arg-type]
    assert failure.value.reason == Reason.GRADER_FAILED
