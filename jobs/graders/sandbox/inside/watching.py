"""Whether a grader's process runs a text as code: told to the harness before the first line of it.

By an audit hook (PEP 578), which nothing removes. What it writes cannot be unwritten either: from
then on the process may be another's, and it serves no further row.
https://docs.python.org/3/library/audit_events.html
"""

from __future__ import annotations

import ast
import importlib.machinery as importers
import sys
from collections.abc import Callable

from .records import RAN_TEXT

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from types import FrameType
    from typing import Any

_NAMES = """
compile exec marshal.loads marshal.load code.__new__ function.__new__ pickle.find_class
cpython.PyInterpreterState_New
"""
# Every way from a text to code that runs passes one of these: parsed, unmarshalled or put together
# by hand, unpickled, or given to an interpreter that has no such hook. `re` and `json` raise none.
_EVENTS = frozenset(_NAMES.split())
_NATIVE = "ctypes."
# Modules that lie in files, where nobody in here can write.
_FILES = (
    importers.SourceFileLoader,
    importers.SourcelessFileLoader,
    importers.ExtensionFileLoader,
)
_IMPORTS = frozenset(getattr(one.exec_module, "__code__", None) for one in _FILES)
_FROZEN = importers.FrozenImporter.exec_module.__code__
_PARSE, _LITERAL_EVAL = ast.parse.__code__, ast.literal_eval.__code__


def watch(write: Callable[[int, bytes], int], descriptor: int) -> Callable[[], None]:
    """Watch this process; what is returned says that rows may come from now on.

    From then on RAN_TEXT is written to the descriptor, once, before a text is run as code. Until
    that nothing but the grader's own code has run, so what is looked at here is as it seems.
    Where the harness cannot be told, the text does not run: an error in a hook ends the attempt.
    """
    frame_at, watched, native = sys._getframe, _EVENTS, _NATIVE
    mark, is_harmless = RAN_TEXT, _is_harmless
    begun: list[bool] = []
    told: list[str] = []

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if (event in watched or event.startswith(native)) and begun and not told:
            if is_harmless(event, frame_at(1)):
                return
            write(descriptor, mark)
            told.append(event)

    sys.addaudithook(hook)
    return lambda: begun.append(True)


def _is_harmless(event: str, frame: FrameType | None) -> bool:
    """A literal being read, or a library's own module being imported from its file."""
    if event == "compile" and frame is not None and frame.f_code is _PARSE:
        caller = frame.f_back
        if caller is not None and caller.f_code is _LITERAL_EVAL:
            return True
    while frame is not None:
        code = frame.f_code
        # A loader of another type may have taken a text for a file.
        if code is _FROZEN or (code in _IMPORTS and type(frame.f_locals["self"]) in _FILES):
            return True
        frame = frame.f_back
    return False
