"""A user's source is read, imported for, compiled: all but trusted imports in locked children."""

from __future__ import annotations

import ast
import gc
import importlib
import json
import sys
from types import CodeType

from .children import ask_once
from .lockdown import ChildLock
from .records import LENGTH
from .runner import FILENAME, described, send_json
from .scanning import modules_named, text_runs

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from typing import Any

LOAD_SECONDS = 20.0
_SCAN_SECONDS = 10.0
_MAX_IMPORTS = 200
# Flags of code objects: *args, **kwargs; async def.
_STARRED, _COROUTINE = 0x04 | 0x08, 0x80 | 0x200
_MAX_ERROR_CHARS = 4000


class Loader:
    """Loads sources in one harness."""

    def __init__(self, lock: ChildLock, importable: frozenset[str]) -> None:
        self._lock = lock
        self._importable = importable

    def load(self, source: str) -> tuple[CodeType | None, dict[str, Any]]:
        """The code, or None; and the report: `error`, `functions`, `imports`."""
        imports, runs = self._scanned(source)
        failed = [fault for name in imports if (fault := _import(name))]
        checked, death = _asked(self._lock, lambda: _check(source), seconds=LOAD_SECONDS)
        error = f"loading the grader took too long or crashed ({death})"
        functions: list[str] = []
        if checked is not None:
            error = str(checked.get("error", ""))[:_MAX_ERROR_CHARS]
            functions = [str(name) for name in checked.get("functions", [])][:2]
        if error:
            error = "; ".join([error, *failed])
            return None, {"error": error, "functions": [], "imports": imports, "text_runs": runs}
        # A child compiled it already, within bounds; once here serves every child to come.
        code = compile(source, FILENAME, "exec", dont_inherit=True)
        gc.collect()
        gc.freeze()  # the collector of a child would copy every page it touches
        return code, {"error": "", "functions": functions, "imports": imports, "text_runs": runs}

    def _scanned(self, source: str) -> tuple[list[str], list[tuple[int, str]]]:
        """Modules of the curated packages that the source names: those alone are imported here.

        And the lines where it may run a text as code, with what does so.
        """
        found, _ = _asked(self._lock, lambda: _scan(source), seconds=_SCAN_SECONDS)
        if found is None:
            return [], []  # a syntax error is _check's to report
        imports = [
            name
            for name in found["imports"][:_MAX_IMPORTS]
            if name.split(".")[0] in self._importable
        ]
        return imports, found["text_runs"]


def _asked(lock: ChildLock, work: Any, *, seconds: float) -> tuple[dict[str, Any] | None, str]:
    answer, death = ask_once(lock, work, seconds=seconds)
    try:
        document = json.loads(answer[LENGTH.size :])
    except ValueError:
        return None, death
    return (document if isinstance(document, dict) else None), death


def _import(name: str) -> str:
    """Import a trusted module once, shared copy-on-write; why not, where it cannot be."""
    if name in sys.modules:
        return ""
    try:
        importlib.import_module(name)
    except BaseException as error:
        return described(error, [])
    return ""


def _scan(source: str) -> None:
    """Reads the source and runs nothing of it, so that what it says is its own word."""
    tree = ast.parse(source)
    send_json({"imports": modules_named(tree), "text_runs": text_runs(tree)})


def _check(source: str) -> None:
    """Run the module's body once; say what it defines or what is wrong with it."""
    names: dict[str, Any] = {"__name__": "grader"}
    try:
        exec(compile(source, FILENAME, "exec", dont_inherit=True), names)
        error = _fault(names)
    except BaseException as raised:
        error = described(raised, source.split("\n"))
    functions = [name for name in ("grade", "grade_group") if callable(names.get(name))]
    send_json({"error": error, "functions": functions})


def _fault(names: dict[str, Any]) -> str:
    functions = {name: names[name] for name in ("grade", "grade_group") if name in names}
    if not functions:
        return "the source must define grade(sample, item)"
    for name, function in functions.items():
        first = "sample" if name == "grade" else "samples"
        if not callable(function):
            return f"{name} is not a function"
        code = getattr(function, "__code__", None)
        if code is None:
            continue  # an object that can be called: how, only a call can tell
        if code.co_flags & _COROUTINE:
            return f"{name} must be a plain function, not an async one"
        if code.co_argcount != 2 or code.co_kwonlyargcount or code.co_flags & _STARRED:
            return f"{name} must take exactly two arguments: {name}({first}, item)"
    return ""
