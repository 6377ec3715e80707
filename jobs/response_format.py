"""The form an answer is asked to have: put before the model, and parsed for graders."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jobs import strict_json


class JsonSchema(BaseModel):
    """OpenAI's wrapping of a JSON schema."""

    model_config = ConfigDict(extra="forbid", serialize_by_alias=True)

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None

    @field_validator("schema_")
    @classmethod
    def _is_a_schema(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            Draft202012Validator.check_schema(value)
        except SchemaError as error:
            raise ValueError(f"it is no JSON schema (2020-12): {error.message}") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        return value


class ResponseFormat(BaseModel):
    """`json_schema` in the guide's form or the older flat one, `json_object`, or plain `text`.

    Nothing constrains the sampling: an answer has the form as far as the model learned it.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_the_flat_form(cls, value: Any) -> Any:
        if isinstance(value, dict) and "schema" in value and "json_schema" not in value:
            inner = {key: item for key, item in value.items() if key != "type"}
            return {"type": value.get("type"), "json_schema": inner}
        return value

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema is given with, and only with, the type 'json_schema'")
        return self

    def instruction(self) -> str | None:
        """What the model is told of it; None where there is nothing to tell."""
        if self.type == "text":
            return None
        if self.json_schema is None:
            return "Answer with one JSON object and nothing else."
        about = f" ({self.json_schema.description})" if self.json_schema.description else ""
        schema = json.dumps(self.json_schema.schema_, ensure_ascii=False, separators=(",", ":"))
        return f"Answer with JSON of this schema{about} and nothing else:\n{schema}"

    def told(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages as templates take them, with the instruction in their system message."""
        instruction = self.instruction()
        if instruction is None:
            return messages
        if messages[0]["role"] != "system":
            return [{"role": "system", "content": instruction}, *messages]
        content = f"{messages[0]['content']}\n\n{instruction}"
        return [messages[0] | {"content": content}, *messages[1:]]

    def parsed(self, text: str) -> Any:
        """`sample.output_json` of an answer; None when it is not JSON, or need not be."""
        return None if self.type == "text" else json_or_none(text)


def json_or_none(text: str) -> Any:
    """The value of a text that is JSON, else None."""
    try:
        return strict_json.loads(text.encode())
    except ValueError:
        return None
