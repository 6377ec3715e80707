"""Messages to judges: roles, and content with templates and pictures in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from jobs.graders import images
from jobs.graders.grade import GradeFailure, Sample
from jobs.graders.strict import Strict
from jobs.graders.template import Template


class TextPart(Strict):
    """A part of a message: text, by the names of OpenAI's two APIs."""

    type: Literal["input_text", "output_text", "text"]
    text: Template

    def templates(self) -> Iterator[Template]:
        yield self.text

    def rendered(self, sample: Sample, item: Mapping[str, Any]) -> dict[str, Any]:
        """As chat completions take it."""
        return {"type": "text", "text": self.text.render(sample, item)}


class ImagePart(Strict):
    """A part of a message: a picture, in its URL or fetched by the judge's server."""

    type: Literal["input_image"]
    image_url: Template
    detail: Literal["auto", "low", "high"] | None = None

    def templates(self) -> Iterator[Template]:
        yield self.image_url

    def rendered(self, sample: Sample, item: Mapping[str, Any]) -> dict[str, Any]:
        """As chat completions take it."""
        image: dict[str, Any] = {"url": images.checked(self.image_url.render(sample, item))}
        if self.detail is not None:
            image["detail"] = self.detail
        return {"type": "image_url", "image_url": image}

    def row_problem(self, item: Mapping[str, Any]) -> str | None:
        """Why a row's own picture is not shown, or None."""
        if self.image_url.reads_sample:
            return None
        try:
            images.checked(self.image_url.render(Sample(""), item))
        except GradeFailure as failure:
            return failure.detail
        return None


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


_Content = Template | list[Part | Template] | TextPart | ImagePart


def _parts(content: _Content) -> list[Template | TextPart | ImagePart]:
    return list(content) if isinstance(content, list) else [content]


class JudgeMessage(Strict):
    """One message to a judge, with templates in its content."""

    role: Literal["user", "assistant", "system", "developer"]
    content: _Content
    type: Literal["message"] = "message"

    @field_validator("content")
    @classmethod
    def _shows_pictures_safely(cls, content: _Content) -> _Content:
        for part in _parts(content):
            if isinstance(part, ImagePart):
                images.check_template(part.image_url)
        return content

    @property
    def pictures(self) -> list[ImagePart]:
        """What the judge must see, and not only read."""
        return [part for part in _parts(self.content) if isinstance(part, ImagePart)]

    def templates(self) -> Iterator[Template]:
        """Those in its content."""
        for part in _parts(self.content):
            if isinstance(part, Template):
                yield part
            else:
                yield from part.templates()

    def rendered(self, sample: Sample, item: Mapping[str, Any]) -> dict[str, Any]:
        """As chat completions take it; raises GradeFailure where a value is missing."""
        if isinstance(self.content, Template):
            return {"role": self.role, "content": self.content.render(sample, item)}
        parts = [
            {"type": "text", "text": part.render(sample, item)}
            if isinstance(part, Template)
            else part.rendered(sample, item)
            for part in _parts(self.content)
        ]
        return {"role": self.role, "content": parts}
