"""label_model: a judge chooses a label, and some labels pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from jobs.graders.grade import GradeFailure, Sample, Scored
from jobs.graders.questions import MessagesGrader, form_of, shown_json

_Label = Annotated[str, Field(min_length=1, max_length=200)]


class LabelModel(MessagesGrader):
    """Reward 1 where the judge's label is one of `passing_labels`, else 0. Only inside a multi."""

    type: Literal["label_model"]
    labels: Annotated[list[_Label], Field(min_length=1, max_length=256)]
    passing_labels: Annotated[list[_Label], Field(min_length=1, max_length=256)]

    @field_validator("passing_labels")
    @classmethod
    def _are_labels(cls, passing: list[str], info: ValidationInfo) -> list[str]:
        labels = info.data.get("labels", passing)  # If they are missing, that is told first.
        for label in passing:
            if label not in labels:
                raise ValueError(f"{label!r} is not one of the labels {', '.join(labels)}")
        return passing

    def scored(self, sample: Sample, item: Mapping[str, Any]) -> Scored:
        """1.0 or 0.0; a label that is not on the list is a failure."""
        form = form_of({"type": "string", "enum": self.labels})
        answer = self.ask(self.asked(sample, item), form)
        label = self.content(answer).get("result")
        if label not in self.labels:
            raise GradeFailure(
                "model_grader_parse_error",
                f"the judge {self.model!r} gave {shown_json(label)}, which is none of the labels",
                usage=self.usage(answer),
            )
        reward = float(label in self.passing_labels)
        return Scored(reward, usage=self.usage(answer), judge_model=answer.model)
