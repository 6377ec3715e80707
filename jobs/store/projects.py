"""Projects and API keys: a key is 32 random bytes, shown once and stored as its hash."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from jobs import ids
from jobs.db import now
from jobs.models import ApiKey, Project
from jobs.scopes import Scope, granted, stored

KEY_PREFIX = "hk-"

USE_NOTED_SECONDS = 60.0

# `ON CONFLICT` is both databases' own, and in SQLAlchemy a method of each one's own statement.
INSERT: dict[str, Callable[..., postgresql.Insert | sqlite.Insert]] = {
    "postgresql": postgresql.insert,
    "sqlite": sqlite.insert,
}


@dataclass(frozen=True)
class IssuedKey:
    """A key at the only moment its secret is known."""

    id: str
    project_id: str
    secret: str


@dataclass(frozen=True)
class Caller:
    """Who presented a key: what it speaks for, and all that it may do."""

    key_id: str
    project_id: str
    scopes: frozenset[Scope]


def ensure_project(session: Session, name: str) -> Project:
    """The project of that name, made if it is new; two that make it at once get the same one."""
    insert = INSERT[session.get_bind().dialect.name]
    new = insert(Project).values(id=ids.new_id(ids.PROJECT), name=name)
    session.execute(new.on_conflict_do_nothing(index_elements=[Project.name]))
    return session.scalars(select(Project).where(Project.name == name)).one()


def find_project(session: Session, name_or_id: str) -> Project | None:
    """The project of that name, else of that id."""
    named = select(Project).where(Project.name == name_or_id)
    return session.scalar(named) or session.get(Project, name_or_id)


def has_project(session: Session, name: str) -> bool:
    return session.scalar(select(Project.id).where(Project.name == name)) is not None


def list_projects(session: Session) -> list[tuple[Project, int]]:
    """All projects with how many live keys each has, oldest first."""
    live = (
        select(func.count())
        .where(ApiKey.project_id == Project.id, ApiKey.revoked_at.is_(None))
        .scalar_subquery()
    )
    query = select(Project, live).order_by(Project.created_at, Project.id)
    return [(project, num_keys) for project, num_keys in session.execute(query)]


def issue_key(
    session: Session, project: Project, name: str, *, scopes: Iterable[Scope] = (Scope.TRAIN,)
) -> IssuedKey:
    """Make a key of the project. 256 random bits need no slow hash."""
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(
        id=ids.new_id(ids.KEY),
        project_id=project.id,
        name=name,
        shown_prefix=secret[:8],
        sha256=_hash(secret),
        scopes=stored(scopes),
    )
    session.add(key)
    session.flush()
    return IssuedKey(id=key.id, project_id=project.id, secret=secret)


def list_keys(session: Session) -> list[tuple[ApiKey, Project]]:
    """All keys with their projects, oldest first."""
    query = (
        select(ApiKey, Project)
        .join(Project, ApiKey.project_id == Project.id)
        .order_by(ApiKey.created_at, ApiKey.id)
    )
    return [(key, project) for key, project in session.execute(query)]


def has_live_key(session: Session) -> bool:
    """Whether anybody can be let in."""
    query = select(ApiKey.id).where(ApiKey.revoked_at.is_(None)).limit(1)
    return session.scalar(query) is not None


def revoke_key(session: Session, key_id: str) -> bool:
    """End a key; False when there is no such live key."""
    statement = (
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now())
        .returning(ApiKey.id)
    )
    return session.scalar(statement) is not None


def caller_of_key(session: Session, secret: str) -> Caller | None:
    """Who presents this key, or None. Looked up by hash: nothing to time.

    Notes the use, at most once in USE_NOTED_SECONDS: reads must not cost a write each.
    """
    is_stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now() - USE_NOTED_SECONDS)
    query = select(ApiKey.id, ApiKey.project_id, ApiKey.scopes, is_stale.label("is_stale")).where(
        ApiKey.sha256 == _hash(secret), ApiKey.revoked_at.is_(None)
    )
    found = session.execute(query).first()
    if found is None:
        return None
    if found.is_stale:
        session.execute(update(ApiKey).where(ApiKey.id == found.id).values(last_used_at=now()))
    return Caller(key_id=found.id, project_id=found.project_id, scopes=granted(found.scopes))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
