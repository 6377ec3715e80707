"""Who is asking: a Bearer key speaks for one project, and nothing of another is seen with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from jobs.db import transaction
from jobs.errors import InvalidApiKey, MissingScope
from jobs.scopes import Scope
from jobs.store import projects
from jobs.store.projects import Caller
from service.dependencies import Resources, get_resources

bearer = HTTPBearer(
    auto_error=False, scheme_name="api_key", description="A key made with `honed keys create`."
)


def current_caller(
    request: Request,
    resources: Annotated[Resources, Depends(get_resources)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    """Who the request's key speaks for. Raises InvalidApiKey, MissingScope, or Unavailable where
    the database was migrated past this code.

    It uses a session of its own: a connection held from here until the route gets a thread would
    let a burst of requests wait for each other.
    """
    if credentials is None or not credentials.credentials:
        raise InvalidApiKey(
            "No API key was sent. Send one as 'Authorization: Bearer <key>'; the server's operator "
            "makes keys with `honed keys create`."
        )
    resources.schema.check()
    with transaction(resources.sessions) as session:
        caller = projects.caller_of_key(session, credentials.credentials)
    if caller is None:
        shown = credentials.credentials[:6]
        raise InvalidApiKey(
            f"The API key '{shown}...' is not valid on this server: it is unknown or was revoked."
        )
    if request.method not in ("GET", "HEAD"):
        require(caller, Scope.TRAIN, "change anything")
    return caller


def require(caller: Caller, scope: Scope, deed: str) -> None:
    """Raise MissingScope, with what the key may not do and who can help, unless it may."""
    if scope not in caller.scopes:
        raise MissingScope(
            f"This API key may not {deed}: that needs the scope '{scope}'. The server's operator "
            f"makes such a key with `honed keys create --scope {scope}`."
        )


CurrentCaller = Annotated[Caller, Depends(current_caller)]


def current_project(caller: CurrentCaller) -> str:
    """The id of the project whose key the request carries."""
    return caller.project_id


CurrentProject = Annotated[str, Depends(current_project)]
