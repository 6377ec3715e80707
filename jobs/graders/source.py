"""What is compiled from a user's text: on the wire it is that text, and equal texts are equal."""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Compiled:
    """Made from its `source` alone; pydantic reads it from a string and writes it as one."""

    source: str

    def __init__(self, source: str) -> None:
        self.source = source

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.source!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(strict=True),
            serialization=core_schema.plain_serializer_function_ser_schema(
                _source, return_schema=core_schema.str_schema()
            ),
        )


def _source(compiled: Compiled) -> str:
    return compiled.source
