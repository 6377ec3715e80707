"""Graders that need more than their definition: bound to their means as they are parsed."""

from __future__ import annotations

from typing import Any

from pydantic import PrivateAttr

from jobs.graders.base import ScoredGrader
from jobs.graders.means import BARE, Means


class BoundGrader(ScoredGrader):
    """A grader with `means`, which are shared, thread-safe, and no part of its definition."""

    _means: Means = PrivateAttr(default_factory=lambda: BARE)

    @property
    def waits(self) -> bool:
        """Another process or machine does the work."""
        return True

    def model_post_init(self, context: Any) -> None:
        """Take what the parser was given."""
        if isinstance(context, Means):
            self._means = context
