"""reasoning-gym's scorers, by the name of their task."""

from __future__ import annotations

import contextlib
import difflib
import io
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from jobs.graders.offload.records import Outcome, bits


def run(
    *,
    task: str,
    text: str | None = None,
    entry: dict[str, Any] | None = None,
    values: list[dict[str, Any]] | None = None,
) -> Outcome:
    """The score of a text for an entry; without them, whether there is such a task.

    With `values`, entries, which of them are none of this task.

    A scorer that raises on the text and not on the entry's own answer was made to by the text:
    0 with a note. One that raises on both was given an entry that is none: `problem`.
    """
    if task not in DATASETS:
        near = difflib.get_close_matches(task, list(DATASETS), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return Outcome(problem=f"reasoning-gym has no task {task!r}{hint}")
    # Some scorers print.
    with contextlib.redirect_stdout(io.StringIO()):
        if values is not None:
            note = f"it is no entry of {task}: the scorer cannot read its own answer and metadata"
            return bits((_fault(task, value) is not None for value in values), note)
        if text is None or entry is None:
            return Outcome()
        try:
            return Outcome(float(_scorer(task)(text, entry)))
        except Exception as error:
            if (fault := _fault(task, entry)) is not None:
                return Outcome(problem=f"the row is no entry of {task}: {fault}")
            return Outcome(note=f"{type(error).__name__}: {error}")


def _fault(task: str, entry: dict[str, Any]) -> str | None:
    try:
        _scorer(task)(str(entry.get("answer")), entry)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _scorer(task: str) -> Any:
    return reasoning_gym.get_score_answer_fn(task)
