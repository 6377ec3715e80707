"""What the operator offers to graders: judges, embeddings, hosts that may be called, a secret."""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.graders.signing import SECRET_PREFIX

MIN_SECRET_BYTES = 24


class ServiceAt(BaseModel):
    """An OpenAI-compatible service: where it is, and how much it can take."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    base_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
    """Such as `https://api.openai.com/v1`. Its host may be private: it is the operator's word."""
    api_key_env: Annotated[str, Field(min_length=1)] | None = None
    """The environment variable that holds the key, read by each process that calls."""
    model: Annotated[str, Field(min_length=1)] | None = None
    """What the service calls the model; the configured name unless given."""
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 60.0
    """For one request."""
    max_retries: Annotated[int, Field(ge=0, le=20)] = 5
    """After a lost connection, a timeout, 408, 409, 429 or 5xx."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 16
    """Requests under way at once, of one process."""

    @model_validator(mode="after")
    def _key_is_there(self) -> ServiceAt:
        if self.api_key_env is not None and not os.environ.get(self.api_key_env):
            # Not by its name: who mistakes the field puts the key itself there.
            raise ValueError("the environment variable that api_key_env names is not set")
        return self

    def headers(self) -> dict[str, str]:
        """What authorizes a request."""
        if self.api_key_env is None:
            return {}
        return {"authorization": f"Bearer {os.environ[self.api_key_env]}"}


class JudgeAt(ServiceAt):
    """A judge: a chat model that graders may name."""

    answer_format: Literal["json_schema", "prompt"] = "json_schema"
    """How it is held to its form: `response_format`, or a sentence for servers without that."""


class EmbedderAt(ServiceAt):
    """What turns texts into vectors, for text_similarity's cosine."""


class GraderSettings(BaseSettings):
    """Read from `HONED_*` variables, by the service and by every worker alike."""

    # A fault is told without the value: judges are given with secrets beside them.
    model_config = SettingsConfigDict(
        env_prefix="HONED_", extra="ignore", hide_input_in_errors=True
    )

    judges: Annotated[dict[str, JudgeAt], NoDecode] = Field(default_factory=dict)
    """Judges by the name that graders use: a JSON object, or the path of a file that holds one."""

    embeddings: Annotated[EmbedderAt | None, NoDecode] = None
    """The embedding service, as JSON or the path of a file."""

    outbound_allow: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts, `name` or `name:port`, that endpoint graders may call although they are private,
    plain HTTP or bare addresses. Comma-separated in the variable."""

    endpoint_secret: SecretStr | None = None
    """`whsec_` and base64 of 24 random bytes or more. The secret of each project, which signs what
    its endpoint graders send (Standard Webhooks), is derived from it. While it is changed: the new
    one, a comma, the old."""

    @field_validator("judges", "embeddings", mode="before")
    @classmethod
    def _json_or_file(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("{"):
            return _parsed(value)
        try:
            return _parsed(Path(value).read_text())
        except OSError as error:
            # What was meant as JSON is quoted by the error as if it were a path.
            raise ValueError(
                f"it names a file that cannot be read: {error.strerror or type(error).__name__}"
            ) from None

    @field_validator("endpoint_secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            _keys(secret)
        return secret

    def endpoint_keys(self) -> tuple[bytes, ...]:
        """The bytes of each endpoint secret, the newest first."""
        return () if self.endpoint_secret is None else _keys(self.endpoint_secret)

    @field_validator("outbound_allow", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


def _keys(secrets: SecretStr) -> tuple[bytes, ...]:
    keys = []
    for secret in secrets.get_secret_value().split(","):
        try:
            keys.append(base64.b64decode(secret.strip().removeprefix(SECRET_PREFIX), validate=True))
        except binascii.Error:
            keys.append(b"")
    # Who knows a project's secret could find a short one that it was derived from by trying.
    if any(len(key) < MIN_SECRET_BYTES for key in keys):
        raise ValueError(
            f"it must be whsec_ and base64 of {MIN_SECRET_BYTES} random bytes or more, or several "
            "of these with commas between"
        )
    return tuple(keys)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is neither a JSON object nor the path of one: {error}") from None
