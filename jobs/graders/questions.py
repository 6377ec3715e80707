"""What judges are asked: messages with templates in them, OpenAI's sampling parameters, forms."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from jobs import strict_json
from jobs.graders.grade import GradeFailure, Sample, UsagePerJudge
from jobs.graders.judges import Judge, LocalJudge, asked_once
from jobs.graders.means import Means, means_of
from jobs.graders.messages import JudgeMessage
from jobs.graders.outside import BoundGrader
from jobs.graders.ports import Answer, Models, Question
from jobs.graders.strict import Strict
from jobs.graders.template import Template

_MAX_MESSAGES = 64
_STEPS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"description": {"type": "string"}, "conclusion": {"type": "string"}},
        "required": ["description", "conclusion"],
        "additionalProperties": False,
    },
}


class SamplingParams(Strict):
    """How the judge samples, by OpenAI's names for it."""

    seed: int | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    # OpenAI's own spelling.
    max_completions_tokens: Annotated[int, Field(ge=1)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )

    def of_chat(self) -> dict[str, Any]:
        """As chat completions name them."""
        given = self.model_dump(exclude_none=True)
        if "max_completions_tokens" in given:
            given["max_completion_tokens"] = given.pop("max_completions_tokens")
        return given


class JudgedGrader(BoundGrader):
    """A grader that asks a judge; `model` is one that the operator has named."""

    nested: ClassVar = {"sampling_params": SamplingParams, "input": JudgeMessage}

    model: Annotated[str, Field(min_length=1, max_length=256)]
    sampling_params: SamplingParams | None = None

    @field_validator("model")
    @classmethod
    def _is_a_judge(cls, model: str, info: ValidationInfo) -> str:
        means = means_of(info)
        if means.judge(model) is None:
            raise ValueError(_no_judge(model, means))
        return model

    @classmethod
    def why_unusable(cls, means: Means) -> str | None:
        """Where nobody can judge."""
        return _NO_JUDGES if not means.judges and means.models is None else None

    @classmethod
    def limitations(cls, means: Means) -> list[str]:
        """Who cannot judge here, or not now."""
        if means.judges or means.models is None:
            return []
        return [
            "Only models of this machine can judge: the operator names others in HONED_JUDGES.",
            *_waiting(means.models),
        ]

    @property
    def asks_judges(self) -> bool:
        """Every grade does, unless the answer is kept."""
        return True

    def ask(self, messages: list[dict[str, Any]], form: Mapping[str, Any]) -> Answer:
        """The judge's answer, whatever it says; raises GradeFailure where there is none."""
        sampling = self.sampling_params.of_chat() if self.sampling_params else {}
        return asked_once(
            self._judge(),
            self.model,
            Question(messages, form, sampling),
            answers=self._means.answers,
            budget=self._means.budget,
            asking=self._means.asking,
        )

    def usage(self, answer: Answer) -> UsagePerJudge:
        return {self.model: answer.usage}

    def content(self, answer: Answer) -> dict[str, Any]:
        """The answer's JSON object; raises GradeFailure for a refusal and for anything else."""
        usage = self.usage(answer)
        if answer.is_refusal:
            raise GradeFailure(
                "model_grader_refusal_error",
                f"the judge {self.model!r} refused to answer",
                usage=usage,
            )
        found = json_object(answer.text)
        if found is None:
            why = "was cut off by its token limit" if answer.is_cut else "is not the JSON asked for"
            raise GradeFailure(
                "model_grader_parse_error",
                f"the answer of the judge {self.model!r} {why}",
                usage=usage,
            )
        return found

    @property
    def concurrency(self) -> int:
        """How many samples can be graded at a time."""
        return self._judge().concurrency

    def _judge(self) -> Judge:
        judge = self._means.judge(self.model)
        if judge is None:
            raise GradeFailure("model_grader_server_error", _no_judge(self.model, self._means))
        return judge


def form_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's structured answer: the steps of the reasoning, then `result`."""
    return {
        "type": "object",
        "properties": {"steps": _STEPS, "result": dict(result)},
        "required": ["steps", "result"],
        "additionalProperties": False,
    }


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, in a code fence or with words around it or not, or None."""
    for candidate in (text, text[text.find("{") : text.rfind("}") + 1]):
        try:
            value = strict_json.loads(candidate.encode())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            return value
    return None


def shown_json(value: object) -> str:
    """A value of a judge's answer, short enough for an error."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:80] + "..."


class MessagesGrader(JudgedGrader):
    """A judged grader whose author wrote the messages."""

    input: Annotated[list[JudgeMessage], Field(min_length=1, max_length=_MAX_MESSAGES)]

    @field_validator("input")
    @classmethod
    def _can_be_read(cls, messages: list[JudgeMessage], info: ValidationInfo) -> list[JudgeMessage]:
        judge = means_of(info).judge(info.data.get("model", ""))
        if isinstance(judge, LocalJudge) and any(message.pictures for message in messages):
            raise ValueError(
                f"{judge.name!r} is a model of this machine, which reads text only: leave "
                "input_image out, or name a judge that the operator has in HONED_JUDGES"
            )
        return messages

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """That of the first picture which has one."""
        pictures = (picture for message in self.input for picture in message.pictures)
        return next(filter(None, (picture.row_problem(item) for picture in pictures)), None)

    def asked(self, sample: Sample, item: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The messages as chat completions take them; raises GradeFailure."""
        return [message.rendered(sample, item) for message in self.input]

    def templates(self) -> Iterator[Template]:
        """Those of every message."""
        for message in self.input:
            yield from message.templates()


_NO_JUDGES = "this server has none; the operator names them in HONED_JUDGES"


def _waiting(models: Models) -> list[str]:
    reason = models.why_away()
    return [reason] if reason else []


def _no_judge(model: str, means: Means) -> str:
    if not means.judges and means.models is None:
        return f"{model!r} is no judge here: {_NO_JUDGES}"
    known = ", ".join(sorted(means.judges)) or "none by the operator"
    return f"{model!r} is no judge on this server; the judges are {known}"
