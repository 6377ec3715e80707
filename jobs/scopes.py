"""What an API key may do: a small closed set, each scope with what it includes."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    READ = "read"
    """Look at everything of the project, and change nothing."""
    TRAIN = "train"
    """Everything a user does; what a key has unless it is made with another scope."""
    PRIORITY = "priority"
    """Also make jobs that go before others."""


INCLUDED: dict[Scope, frozenset[Scope]] = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.TRAIN: frozenset({Scope.READ, Scope.TRAIN}),
    Scope.PRIORITY: frozenset(Scope),
}


def granted(stored: str) -> frozenset[Scope]:
    """Everything that the scopes of a key allow, from the words its row holds."""
    return frozenset().union(*(INCLUDED[Scope(word)] for word in stored.split()))


def stored(scopes: Iterable[Scope]) -> str:
    """Scopes as a key's row holds them: words in one fixed order."""
    given = set(scopes)
    return " ".join(scope for scope in Scope if scope in given)
