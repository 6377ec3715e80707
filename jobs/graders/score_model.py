"""score_model: a judge gives the number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from jobs.graders.grade import GradeFailure, Sample, Scored
from jobs.graders.questions import MessagesGrader, form_of, shown_json

_FORM = form_of({"type": "number"})


class ScoreModel(MessagesGrader):
    """Reward = the judge's `result`, clamped to `range`.

    The judge answers `{"steps": [{"description", "conclusion"}], "result": float}`.
    `pass_threshold` is kept and shown and does not change the reward.
    """

    type: Literal["score_model"]
    range: Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)
    ] = Field(default_factory=lambda: [0.0, 1.0])
    pass_threshold: float | None = Field(default=None, allow_inf_nan=False)

    @field_validator("range")
    @classmethod
    def _is_a_range(cls, value: list[float]) -> list[float]:
        if value[0] >= value[1]:
            raise ValueError(f"the lower end {value[0]:g} is not below the upper end {value[1]:g}")
        return value

    def scored(self, sample: Sample, item: Mapping[str, Any]) -> Scored:
        """Within the range; a result outside of it is counted as clamped."""
        answer = self.ask(self.asked(sample, item), _FORM)
        result = self.content(answer).get("result")
        if not isinstance(result, (int, float)) or isinstance(result, bool):
            raise GradeFailure(
                "model_grader_parse_error",
                f"the judge {self.model!r} gave {shown_json(result)} as result, which is no number",
                usage=self.usage(answer),
            )
        reward = min(max(float(result), self.range[0]), self.range[1])
        return Scored(
            reward,
            usage=self.usage(answer),
            judge_model=answer.model,
            incidents={} if reward == result else {"result_clamped": 1},
        )
