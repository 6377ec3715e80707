"""`honed keys` and `honed projects`: who may ask this server for what."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

import typer

from jobs.graders.settings import GraderSettings
from jobs.graders.signing import project_key, shown_secret
from jobs.scopes import Scope
from jobs.store import projects, storage
from service.commands.common import Data, database, fail, moment, sentences, settings_of, table

keys_app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
projects_app = typer.Typer(help="Make and list projects.", no_args_is_help=True)

SCOPES = (
    "What the key may do; give it again for more. `read` looks, `train` does everything a user "
    "does, `priority` also puts jobs before others."
)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")] = "key",
    project: Annotated[str, typer.Option(help="Made if it is new.")] = "default",
    scope: Annotated[list[Scope], typer.Option(help=SCOPES)] = [Scope.TRAIN],  # noqa: B006
    data: Data = None,
) -> None:
    """Make a key and print it, this once: only its hash is kept."""
    with sentences(), database(data) as session:
        owner = projects.ensure_project(session, project)
        key = projects.issue_key(session, owner, name, scopes=scope)
    typer.echo(key.secret)


@keys_app.command("list")
def list_keys(data: Data = None) -> None:
    """Show every key's id, project, scopes and state."""
    head = ("id", "project", "name", "begins with", "scopes", "made", "last used", "revoked")
    with sentences(), database(data) as session:
        rows = [
            (
                *(key.id, project.name, key.name, key.shown_prefix, key.scopes.replace(" ", ",")),
                *map(moment, (key.created_at, key.last_used_at, key.revoked_at)),
            )
            for key, project in projects.list_keys(session)
        ]
    table([head, *rows])


@keys_app.command("revoke")
def revoke_key(key_id: str, data: Data = None) -> None:
    """End a key at once. Jobs made with it go on."""
    with sentences(), database(data) as session:
        is_revoked = projects.revoke_key(session, key_id)
    if not is_revoked:
        fail(f"There is no live key {key_id}; `honed keys list` shows them.")
    typer.echo(f"{key_id} is revoked.")


@projects_app.command("create")
def create_project(name: str, data: Data = None) -> None:
    """Make a project; nothing of one is seen with the key of another."""
    with sentences(), database(data) as session:
        if projects.has_project(session, name):
            fail(f"There is a project '{name}' already; `honed projects list` shows them.")
        project = projects.ensure_project(session, name)
    typer.echo(project.id)


@projects_app.command("endpoint-secret")
def show_endpoint_secret(project: str, data: Data = None) -> None:
    """Print the secret by which a project's endpoints verify that this server asks them."""
    try:
        keys = GraderSettings().endpoint_keys()
    except ValueError:  # whose text may quote other settings
        fail("HONED_ENDPOINT_SECRET, or another setting for graders, cannot be used.")
    if not keys:
        fail(
            "Nothing is signed: set HONED_ENDPOINT_SECRET to whsec_ and base64 of 24 random bytes."
        )
    with sentences(), database(data) as session:
        owner = projects.find_project(session, project)
    if owner is None:
        fail(f"There is no project '{project}'; `honed projects list` shows them.")
    typer.echo(shown_secret(project_key(keys[0], owner.id)))


@projects_app.command("quota")
def quota(
    project: str,
    limit: Annotated[
        str | None,
        typer.Argument(
            help="Such as `50GB`, `500MB` or a number of bytes; `none` is no limit, `default` what "
            "HONED_PROJECT_QUOTA_GB says. Left out, nothing changes."
        ),
    ] = None,
    data: Data = None,
) -> None:
    """Say what a project may store; print what it stores, by kind."""
    with sentences(), database(data) as session:
        owner = projects.find_project(session, project)
        if owner is None:
            fail(f"There is no project '{project}'; `honed projects list` shows them.")
        if limit is not None:
            owner.quota_bytes = _quota(limit)
            session.flush()
        default = settings_of(data).project_quota_bytes
        stored = storage.of(session, owner.id, default=default)
    table(
        [
            ("limit", "used", "files", "uploads", "adapters", "training states", "samples"),
            (_bytes(stored.limit), *map(_bytes, (stored.used, *stored.kinds))),
        ]
    )


def _quota(limit: str) -> int | None:
    """The column's value. Ends the command where it is no size."""
    if limit in ("none", "default"):
        return storage.UNLIMITED if limit == "none" else None
    parts = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)B?", limit, re.IGNORECASE)
    if parts is None:
        fail(f"'{limit}' is no size; write such as 50GB or 500MB, or `none` or `default`.")
    num_bytes = int(Decimal(parts[1]) * 1000 ** " KMGT".index(parts[2].upper() or " "))
    if num_bytes >= 2**63:
        fail(f"'{limit}' is more than can be stored; write `none` for no limit.")
    return num_bytes


def _bytes(num_bytes: int | None) -> str:
    return "none" if num_bytes is None else f"{num_bytes:,}"


@projects_app.command("list")
def list_projects(data: Data = None) -> None:
    """Show every project's id, name, number of live keys, bytes stored and limit."""
    with sentences(), database(data) as session:
        default = settings_of(data).project_quota_bytes
        rows = []
        for project, num_keys in projects.list_projects(session):
            stored = storage.of(session, project.id, default=default)
            room = map(_bytes, (stored.used, stored.limit))
            rows.append(
                (project.id, project.name, str(num_keys), *room, moment(project.created_at))
            )
    table([("id", "name", "keys", "bytes stored", "limit", "made"), *rows])
