"""Graders never raise while they grade, and no trouble makes a sandbox weaker."""

from typing import Any

import pytest

from jobs.errors import NoIsolation
from jobs.graders import Means, Sample, parse_grader
from jobs.graders.ports import Answer
from jobs.graders.sandbox import isolation, pools, process
from jobs.graders.sandbox.inside.lockdown import Limits

ONE = {"type": "python", "source": "def grade(sample, item): return 1.0"}


class _Judge:
    concurrency = 2

    def ask(self, question: Any, *, sending: Any) -> Answer:
        score = "1" + "0" * 400
        return Answer(f'{{"scores": [{{"id": "1", "explanation": "", "score": {score}}}]}}', "m")

    def close(self) -> None:
        pass


def test_a_judges_score_beyond_all_numbers_is_a_flag() -> None:
    means = Means(judges={"j": _Judge()})  # type: ignore[dict-item]
    grade = parse_grader({"type": "ruler", "model": "j"}, means).grade(
        Sample("a"), {"messages": []}
    )
    means.close()
    assert grade.reward is None
    assert grade.errors == {"model_grader_parse_error"}


def test_a_row_nested_as_deep_as_python_goes_is_a_flag() -> None:
    item: dict[str, Any] = {}
    for _ in range(100_000):
        item = {"x": item}
    grade = parse_grader(ONE).grade(Sample("a"), item)
    assert grade.errors == {"python_grader_server_error"}
    assert grade.error_detail == "the row is nested too deeply"


def test_a_sandbox_that_dies_before_it_loads_is_lost_and_the_source_not_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load = process.Sandbox.load

    def killed(self: process.Sandbox, *args: Any, **kwargs: Any) -> Any:
        self.kill()
        self._process.wait()
        return load(self, *args, **kwargs)

    monkeypatch.setattr(process.Sandbox, "load", killed)
    grader = parse_grader({**ONE, "name": "killed", "wall_seconds": 14.0})
    grade = grader.grade(Sample("a"), {})
    assert grade.details == {"python_grader_server_error": "sandbox_lost"}
    pools.close_all()


def test_a_level_that_worked_is_never_given_up_for_a_weaker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    isolation.forget()
    level = isolation.isolation().level

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise process.CannotIsolate("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(isolation, "Sandbox", refuse)
        with pytest.raises(NoIsolation, match=f"{level} does not work just now"):
            isolation.start(Limits(cpu_seconds=1.0, wall_seconds=5.0, memory_mb=512))
    assert isolation.isolation().level == level
    pools.close_all()
