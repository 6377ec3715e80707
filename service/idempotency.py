"""A request that arrives twice makes one thing: the second gets the answer of the first.

Two ways tell a repetition: an `Idempotency-Key` that the project used before, and, for OpenAI's
client (which sends none), its own retry count with a body that the same API key sent just now.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from jobs.errors import IdempotencyKeyReused
from jobs.models import Creation
from jobs.spec import shown
from jobs.store import creations
from jobs.store.projects import Caller
from service.auth import CurrentCaller
from service.dependencies import DbSession

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A request repeated with the same key and body gets the first one's answer.",
    ),
]
OtherKey = Annotated[
    str | None,
    Header(alias="X-Idempotency-Key", min_length=1, max_length=255, include_in_schema=False),
]


@dataclass
class Once:
    """One request to make something. Ask `repeated` before it is made, answer with `made`."""

    caller: Caller
    session: Session
    route: str
    key: str | None
    is_retry: bool
    fingerprint: str = ""

    def repeated(self, content: object) -> Response | None:
        """The answer of the request that this one repeats; None when it is new.

        `content` is the body as JSON, or what stands for it. Raises IdempotencyKeyReused. Other
        creations of the project wait from here on, so the transaction must end soon.
        """
        text = json.dumps([self.route, content], sort_keys=True)
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        creations.queue_up(self.session, self.caller.project_id)
        earlier = self._earlier()
        if earlier is None:
            return None
        if earlier.fingerprint != self.fingerprint:
            raise IdempotencyKeyReused(
                f"The idempotency key {shown(self.key)} was used for another request, which made "
                f"{earlier.object_id}. Send a new key with a new request; to repeat the old one, "
                "send the same body to the same path.",
                param="Idempotency-Key",
            )
        return _json(earlier.answer, {"Idempotent-Replayed": "true"})

    def _earlier(self) -> Creation | None:
        if self.key is not None:
            return creations.of_key(self.session, self.caller.project_id, self.key)
        if self.is_retry:
            return creations.just_made(self.session, self.caller.key_id, self.fingerprint)
        return None

    def made(self, object_id: str | None, answer: BaseModel) -> Response:
        """Commit what was made together with its answer, and answer.

        Without an id nothing new was made, and the same request finds the same again.
        """
        text = answer.model_dump_json()
        if object_id is None:
            self.session.commit()
            return _json(text, {})
        creations.add(
            self.session,
            Creation(
                object_id=object_id,
                project_id=self.caller.project_id,
                key_id=self.caller.key_id,
                idempotency_key=self.key,
                fingerprint=self.fingerprint,
                answer=text,
            ),
        )
        self.session.commit()
        return _json(text, {})


def may_repeat(request: Request, caller: Caller, session: Session) -> bool:
    """Whether a request whose body is not read yet may repeat one that made something."""
    key = request.headers.get("idempotency-key") or request.headers.get("x-idempotency-key")
    if key:
        return creations.of_key(session, caller.project_id, key) is not None
    return _is_retry(request) and creations.has_made_lately(session, caller.key_id)


def _is_retry(request: Request) -> bool:
    retries = request.headers.get("x-stainless-retry-count", "0")
    return retries.isdecimal() and int(retries) > 0


def once(
    request: Request,
    caller: CurrentCaller,
    session: DbSession,
    key: Key = None,
    other_key: OtherKey = None,
) -> Once:
    return Once(
        caller=caller,
        session=session,
        route=f"{request.method} {request.url.path}",
        key=key or other_key,
        is_retry=_is_retry(request),
    )


def _json(text: str, headers: dict[str, str]) -> Response:
    return Response(text, media_type="application/json", headers=headers)


OnceOnly = Annotated[Once, Depends(once)]
