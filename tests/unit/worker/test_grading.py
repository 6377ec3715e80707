"""The job's grading as the engine calls it: policies for failures, budgets, counts."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pytest

from jobs.datasets import Row
from jobs.errors import JobFailure
from jobs.graders import Grade, Sample, parse_grader
from jobs.graders.base import GraderSpec, ScoredGrader
from jobs.graders.grade import GradeFailure, Scored, Usage
from jobs.status import Reason
from worker.grading import Grading
from worker.grpo.types import Evaluation, Graded, Group, Prompt, Rollout
from worker.prompts import Completion


class Renderer:
    """Completions whose text is their first id."""

    def completion(
        self, prompt_ids: list[int], ids: list[int], *, is_cut: bool, tools: Any
    ) -> Completion:
        return Completion(str(ids[0]), None, not is_cut)


class Probe(ScoredGrader):
    """The number itself; negative ones fail."""

    type: Literal["probe"] = "probe"

    def scored(self, sample: Sample, item: Mapping[str, Any]) -> Scored:
        number = float(sample.output_text)
        usage = {"j": Usage(1, 10, 2, 0)}
        if number < 0:
            raise GradeFailure("other_error", f"{number:g} is negative", usage=usage)
        return Scored(number, usage=usage, incidents={"seen": 1})


class Ranking(GraderSpec):
    """The place among siblings."""

    type: Literal["ranking"] = "ranking"

    @property
    def is_group_aware(self) -> bool:
        return True

    def graded(self, sample: Sample, item: Mapping[str, Any]) -> Grade:
        return self.graded_group([sample], item)[0]

    def graded_group(self, samples: Sequence[Sample], item: Mapping[str, Any]) -> list[Grade]:
        texts = sorted(sample.output_text for sample in samples)
        return [Grade(reward=float(texts.index(sample.output_text))) for sample in samples]


PROMPT = Prompt(index=0, ids=[1], payload=Row(1, [{"role": "user", "content": "?"}], {"a": 1}))


def rollout(number: int) -> Rollout:
    return Rollout(0, 0, [number], [0.0], "stop", [True])


@pytest.fixture
def make() -> Iterator[Any]:
    made = []

    def make(grader: GraderSpec, **more: Any) -> Grading:
        made.append(Grading(grader, Renderer(), **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for grading in made:
        grading.close()


def graded(grading: Grading, *numbers: int) -> list[Graded]:
    return [grading.submit(PROMPT, rollout(number)).result(10) for number in numbers]


def group(grading: Grading, *numbers: int) -> Group:
    return Group(PROMPT, [], graded(grading, *numbers), [])


def test_by_default_a_failure_is_dropped_and_never_a_zero(make: Any) -> None:
    (one,) = graded(make(Probe()), -1)
    assert one.reward is None
    assert one.errors == {"other_error": 1}
    assert one.part_errors == {"probe": ("other_error",)}


def test_a_fixed_reward_takes_the_place_of_a_failed_one(make: Any) -> None:
    good, bad = graded(make(Probe(), on_error=-0.5), 3, -1)
    assert (good.reward, bad.reward) == (3.0, -0.5)
    assert bad.errors == {"other_error": 1}
    assert bad.components == {"probe": None}


def test_fail_ends_the_job_with_what_went_wrong(make: Any) -> None:
    with pytest.raises(JobFailure, match="-1 is negative") as failed:
        graded(make(Probe(), on_error="fail"), -1)
    assert failed.value.reason is Reason.GRADER_FAILED


def test_a_grader_alone_is_its_own_component_and_its_costs_are_counted(make: Any) -> None:
    good, bad = graded(make(Probe(name="mine")), 3, -1)
    assert good.components == {"mine": 3.0}
    assert set(good.part_seconds) == {"mine"}
    spent = {"judges/j/requests": 1, "judges/j/prompt_tokens": 10,
             "judges/j/completion_tokens": 2, "judges/j/cached_tokens": 0}  # fmt: skip
    assert good.counts == {"graders/incidents/seen": 1, **spent}
    assert bad.counts == spent
    assert bad.part_counts == {"mine": spent}


def test_components_have_latencies_and_errors_of_their_own(make: Any) -> None:
    check = {"type": "string_check", "input": "{{sample.output_text}}", "operation": "eq"}
    definition = {
        "type": "multi",
        "graders": {"a": {**check, "reference": "3"}, "b": {**check, "reference": "{{item.x}}"}},
        "calculate_output": "a + b",
    }
    (one,) = graded(make(parse_grader(definition)), 3)
    assert one.reward is None
    assert one.components == {"a": 1.0, "b": None}
    assert one.part_errors == {"a": (), "b": ("invalid_variable_error",)}
    assert set(one.part_seconds) == {"a", "b"}


def test_a_step_whose_grades_all_fail_ends_the_job_with_samples(make: Any) -> None:
    grading = make(Probe())
    grading.check_step([group(grading, -1, 2)], None)
    with pytest.raises(JobFailure) as failed:
        grading.check_step([group(grading, -1, -2)], None)
    assert failed.value.reason is Reason.GRADER_FAILED
    assert "all 2 completions of a step (other_error)" in failed.value.message
    assert "-1 is negative | -2 is negative" in failed.value.message


def test_so_does_an_evaluation_and_a_fixed_reward_does_not_hide_it(make: Any) -> None:
    grading = make(Probe(), on_error=0.0)
    held_out = Evaluation(
        reward=0.0,
        rewards=[0.0],
        sampled_rewards=[],
        passes=[],
        lift=None,
        pass_lift=None,
        rollouts=[],
        graded=graded(grading, -1),
        sampled=[],
        mean_length=1.0,
        clipped_ratio=0.0,
        seconds=1.0,
    )
    with pytest.raises(JobFailure, match="of an evaluation"):
        grading.check_step([], held_out)


def test_the_budget_is_a_share_of_the_last_ten_steps(make: Any) -> None:
    grading = make(Probe())
    history: list[list[int]] = []
    half, good = [group(grading, -1, 2)], [group(grading, 1, 2)]
    for step in (half, half, good, half):
        grading.check_budget(step, history, max_ratio=0.5)
    assert history == [[1, 2], [1, 2], [0, 2], [1, 2]]
    worse = [group(grading, -1, -1, -1, 2)]
    with pytest.raises(JobFailure, match="failed on 6 of the last 12 completions"):
        grading.check_budget(worse, history, max_ratio=0.4)
    for _ in range(12):
        grading.check_budget(good, history, max_ratio=0.5)
    assert history == [[0, 2]] * 10


def test_a_group_is_graded_together(make: Any) -> None:
    grading = make(Ranking())
    assert grading.is_group_aware
    futures = grading.submit_group(PROMPT, [rollout(7), rollout(5), rollout(6)])
    assert [future.result(10).reward for future in futures] == [2.0, 0.0, 1.0]


def test_as_many_are_graded_at_once_as_the_grader_can_use(make: Any) -> None:
    """All four must be under way before any of them ends."""
    together = threading.Barrier(4, timeout=10)

    class Slow(Probe):
        @property
        def concurrency(self) -> int:
            return 4

        def scored(self, sample: Sample, item: Mapping[str, Any]) -> Scored:
            together.wait()
            return Scored(1.0)

    grading = make(Slow())
    futures = [grading.submit(PROMPT, rollout(number)) for number in range(8)]
    assert [future.result(10).reward for future in futures] == [1.0] * 8


def test_graders_read_the_prompt_as_item_messages(make: Any) -> None:
    definition = {"type": "contains", "input": "{{item.messages[0].content}}", "values": ["?"]}
    (one,) = graded(make(parse_grader(definition)), 1)
    assert one.reward == 1.0
