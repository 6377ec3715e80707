"""Landlock: which files and peers a process can reach.

https://docs.kernel.org/userspace-api/landlock.html
"""

import os
import struct
from collections.abc import Iterable

from .syscalls import call

_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 4, 8
# How many rights on files each version of the interface knows.
_NUM_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_TCP_FROM, _SCOPES_FROM = 4, 6
_BIND_AND_CONNECT, _ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3


def abi() -> int:
    """The kernel's version of the interface; 0 where it has none or refuses it."""
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def restrict_to(version: int, readable: Iterable[str]) -> None:
    """From now on nothing but reading beneath `readable`: no TCP, no signal out of here."""
    rights = (1 << _NUM_FILE_RIGHTS[min(version, max(_NUM_FILE_RIGHTS))]) - 1
    ruleset = _ruleset(version, rights)
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue  # what cannot be opened cannot be read either
        access = _READ_FILE | _READ_DIR if os.path.isdir(path) else _READ_FILE
        rule = struct.pack("<Qi", access, place)
        call("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, rule, 0)
        os.close(place)
    call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def restrict_signals(version: int) -> None:
    """A domain of its own: no signal and no ptrace to siblings or to the harness."""
    if version < _SCOPES_FROM:
        return
    attributes = struct.pack("<QQQ", 0, 0, _ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    call("landlock_restrict_self", ruleset, 0)
    os.close(ruleset)


def _ruleset(version: int, rights: int) -> int:
    fields = [rights]
    if version >= _TCP_FROM:
        fields.append(_BIND_AND_CONNECT)
    if version >= _SCOPES_FROM:
        fields.append(_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"<{len(fields)}Q", *fields)
    return call("landlock_create_ruleset", attributes, len(attributes), 0)
