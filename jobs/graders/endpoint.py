"""endpoint: a program of the user's own, behind HTTP, gives the number."""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from jobs.graders.calling import CallFailed, Pace, Patience
from jobs.graders.grade import ErrorFlag, GradeFailure, Sample
from jobs.graders.means import ENDPOINT_CONCURRENCY, Means, means_of
from jobs.graders.outside import BoundGrader
from jobs.graders.sandbox import pools
from jobs.graders.signing import project_key, signature
from jobs.vetted import OutboundRefused

# Azure's.
MAX_BODY_BYTES = 1024 * 1024
MAX_TIMEOUT_SECONDS = 600.0
MAX_RETRIES = 3
HIDDEN = "<hidden>"

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_OURS = re.compile(
    r"(?i)host|content-.*|connection|transfer-encoding|te|upgrade|proxy-.*|webhook-.*|expect"
)


class Endpoint(BoundGrader):
    """Reward = `score` of what `url` answers to POST `{sample, item, trace_id}`.

    `rate_limit` is requests a second. `pass_threshold` is kept and shown and does not change the
    reward.
    """

    type: Literal["endpoint"]
    url: Annotated[str, Field(max_length=2048)]
    headers: Annotated[dict[str, Annotated[str, Field(max_length=8192)]], Field(max_length=32)] = (
        Field(default_factory=dict)
    )
    rate_limit: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] | None = None
    pass_threshold: float | None = Field(default=None, allow_inf_nan=False)
    timeout_seconds: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False)] = (
        60.0
    )

    _pace: Pace | None = PrivateAttr(default=None)
    _signing_keys: tuple[bytes, ...] = PrivateAttr(default=())

    @field_validator("url")
    @classmethod
    def _may_be_called(cls, url: str, info: ValidationInfo) -> str:
        try:
            means_of(info).caller.outbound.check(url)
        except OutboundRefused as error:
            raise ValueError(str(error)) from None
        if HIDDEN in url:
            raise ValueError(f"{HIDDEN} is the mark of a value that is not shown: give the value")
        return url

    @field_validator("headers")
    @classmethod
    def _can_be_sent(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a header's name")
            if _OURS.fullmatch(name):
                raise ValueError(f"{name!r} is set by this server")
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"the value of {name!r} is not printable ASCII")
            if value == HIDDEN:
                raise ValueError(f"the value of {name!r} is the mark of a value that is not shown")
        return headers

    def model_post_init(self, context: Any) -> None:
        """Take the means, the keys of whose grader it is, and one pace for every thread."""
        super().model_post_init(context)
        tenant = pools.current_tenant() or ""
        self._signing_keys = tuple(project_key(key, tenant) for key in self._means.endpoint_keys)
        if self.rate_limit is not None:
            self._pace = Pace(self.rate_limit)

    @classmethod
    def limitations(cls, means: Means) -> list[str]:
        """Whether endpoints can tell who asks them."""
        if means.endpoint_keys:
            return []
        return ["Requests are not signed: the operator can set HONED_ENDPOINT_SECRET."]

    def score(self, sample: Sample, item: Mapping[str, Any]) -> float:
        """The endpoint's number; raises GradeFailure where it gave none."""
        trace_id = f"trace_{uuid.uuid4()}"
        content = {"sample": sample.as_json(), "item": item, "trace_id": trace_id}
        body = json.dumps(content, separators=(",", ":")).encode()
        if len(body) > MAX_BODY_BYTES:
            raise GradeFailure(
                "truncated_observation_error",
                f"sample and item are {len(body):,} bytes, more than the {MAX_BODY_BYTES:,} that "
                "an endpoint is sent",
            )
        if self._pace is not None:
            self._pace.wait()
        keys = self._signing_keys
        signed = signature(keys, body, trace_id) if keys else {}
        try:
            reply = self._means.caller.post(
                self.url,
                body,
                headers={**self.headers, **signed},
                patience=Patience(self.timeout_seconds, MAX_RETRIES, MAX_BODY_BYTES),
            )
        except CallFailed as error:
            flag: ErrorFlag = "unresponsive_reward_error" if error.is_timeout else "other_error"
            raise GradeFailure(flag, f"the endpoint failed: {error}") from None
        return _score(reply)

    @property
    def concurrency(self) -> int:
        """How many samples can be graded at a time."""
        return ENDPOINT_CONCURRENCY


def without_secrets(definition: Any) -> Any:
    """A definition as others may see it, without what an endpoint's owner may have made a secret.

    Headers and the parameters of a URL's query keep their names and lose their values.
    """
    if isinstance(definition, list):
        return [without_secrets(part) for part in definition]
    if not isinstance(definition, dict):
        return definition
    shown = {key: without_secrets(value) for key, value in definition.items()}
    if definition.get("type") == "endpoint":
        if isinstance(definition.get("headers"), dict):
            shown["headers"] = dict.fromkeys(definition["headers"], HIDDEN)
        if isinstance(definition.get("url"), str):
            shown["url"] = _without_values(definition["url"])
    return shown


def _without_values(url: str) -> str:
    parts = urlsplit(url)
    query = "&".join(
        f"{name}={HIDDEN}" if equals else HIDDEN
        for name, equals, _ in (pair.partition("=") for pair in parts.query.split("&") if pair)
    )
    return urlunsplit(parts._replace(query=query, fragment=HIDDEN if parts.fragment else ""))


def _score(reply: Any) -> float:
    score = reply.get("score") if isinstance(reply, dict) else None
    if not isinstance(score, (int, float)) or isinstance(score, bool) or not math.isfinite(score):
        raise GradeFailure(
            "other_error", 'the endpoint did not answer {"score": number}, a finite one'
        )
    return float(score)
