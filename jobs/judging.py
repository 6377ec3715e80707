"""A judge's question as a chat task, and the answer's records as a judge's answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.graders.grade import GradeFailure, Usage
from jobs.graders.ports import Answer, Question
from jobs.response_format import ResponseFormat
from jobs.serving import ChatTask, Delta, Finished, Sampling, Served


def question_task(model: str, question: Question) -> ChatTask:
    """What a model of this machine is asked. Raises GradeFailure for what it cannot read."""
    asked = dict(question.sampling)
    effort = asked.get("reasoning_effort")
    form = ResponseFormat.model_validate(
        {"type": "json_schema", "json_schema": {"name": "verdict", "schema": question.form}}
    )
    return ChatTask(
        model=Served(name=model, base={"name": model}),
        messages=form.told([_message(message) for message in question.messages]),
        # No chat template knows the last of OpenAI's words for judges.
        reasoning_effort="xhigh" if effort == "max" else effort,
        sampling=Sampling(
            max_tokens=asked.get("max_completion_tokens"),
            temperature=asked.get("temperature", 1.0),
            top_p=asked.get("top_p", 1.0),
            seed=asked.get("seed"),
        ),
    )


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, str):
        if any(part["type"] != "text" for part in content):
            raise GradeFailure(
                "model_grader_server_error", "a judge on this machine reads text only"
            )
        content = "".join(part["text"] for part in content)
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


@dataclass
class Gathered:
    """The one answer, as its records come."""

    model: str
    prompt_tokens: int = 0
    content: list[str] = field(default_factory=list)
    end: Finished | None = None

    def add(self, record: Delta | Finished) -> None:
        if isinstance(record, Finished):
            self.end = record
        else:
            self.content.append(record.content)

    def answer(self) -> Answer:
        """Once it has ended."""
        assert self.end is not None
        return Answer(
            text="".join(self.content),
            model=self.model,
            usage=Usage(
                num_requests=1,
                prompt_tokens=self.prompt_tokens,
                completion_tokens=self.end.completion_tokens,
            ),
            is_cut=self.end.finish_reason == "length",
        )
