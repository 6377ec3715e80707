"""Giving everything up: the harness once, before it reads a user's source; each child once more."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import resource
import struct
from collections import namedtuple
from collections.abc import Sequence

from . import landlock, seccomp
from .syscalls import call

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it would take longer than all the rest
    from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_PR_SET_CHILD_SUBREAPER = 36
_SIGKILL = 9
_CAPABILITIES_V3 = struct.pack("<Ii", 0x20080522, 0)
MIB = 1024 * 1024
_MAX_DESCRIPTORS = 256
_LIMITS = (
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_FSIZE, 0),
    (resource.RLIMIT_NOFILE, _MAX_DESCRIPTORS),
    (resource.RLIMIT_MEMLOCK, 0),
    (resource.RLIMIT_MSGQUEUE, 0),
    (resource.RLIMIT_STACK, 8 * MIB),
)

# What a grader's child finds open, beside 0 to 2, which are /dev/null.
ROWS_FD, VERDICTS_FD = 3, 4


# What one call of a grader may use. (Named tuples: `dataclasses` would triple the start's imports.)
Limits = namedtuple("Limits", "cpu_seconds wall_seconds memory_mb")
# How far this process could be locked, and what could not be done, in words.
Locked = namedtuple("Locked", "is_sealed landlock_abi has_seccomp capabilities notes")


def lock_harness(config: dict[str, Any]) -> Locked:
    """Confine this process by every means that the level has; raises OSError."""
    notes = []
    for which, limit in _LIMITS:
        lower_limit(which, limit)
    os.umask(0o077)
    if os.getuid() == 0 and config["uid"]:
        try:
            os.setgroups([])
            os.setresgid(config["uid"], config["uid"], config["uid"])
            os.setresuid(config["uid"], config["uid"], config["uid"])
        except OSError as error:  # root of a rootless container: one mapped uid, no CAP_SETUID
            notes.append(f"the uid was kept: {error}")
    prctl(_PR_SET_CHILD_SUBREAPER, 1)  # children of its children are its to reap
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)  # a change of uid clears it, so after that
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    call("capset", _CAPABILITIES_V3, bytes(24))
    # No core dump, also none into a pipe; no ptrace by the same uid.
    prctl(_PR_SET_DUMPABLE, 0)
    capabilities = _effective_capabilities()
    is_sealed = config["sealed"] or not _can_read(os.__file__)
    abi = landlock.abi() if config["landlock"] else 0
    if abi:
        landlock.restrict_to(abi, [] if is_sealed else config["readable"])
    if config["seccomp"]:
        gc.collect()
        seccomp.harness_filter(is_sealed=is_sealed).install(seccomp.ALL_THREADS)
    return Locked(
        is_sealed=is_sealed,
        landlock_abi=abi,
        has_seccomp=config["seccomp"],
        capabilities=capabilities,
        notes=notes,
    )


class ChildLock:
    """What every forked child gives up before it runs a user's code."""

    def __init__(self, locked: Locked, limits: Limits) -> None:
        self._locked = locked
        self._limits = limits
        self._filter = seccomp.grader_filter() if locked.has_seccomp else None

    def keep(self, descriptors: Sequence[int]) -> None:
        """Keep these, numbered from ROWS_FD on, and lose all else. They come from above those."""
        for place, descriptor in enumerate(descriptors, ROWS_FD):
            os.dup2(descriptor, place)
        os.closerange(ROWS_FD + len(descriptors), _MAX_DESCRIPTORS)

    def close(self, *, cpu_seconds: float) -> None:
        """For good. `cpu_seconds` is a backstop: the harness measures, and kills earlier."""
        prctl(_PR_SET_PDEATHSIG, _SIGKILL)
        lower_limit(resource.RLIMIT_AS, self._limits.memory_mb * MIB)
        lower_limit(resource.RLIMIT_CPU, math.ceil(cpu_seconds) + 1)
        lower_limit(resource.RLIMIT_NPROC, 0)
        landlock.restrict_signals(self._locked.landlock_abi)
        if self._filter is not None:  # last: it forbids the above
            self._filter.install()


def lower_limit(which: int, limit: int) -> None:
    """Lower soft and hard limit alike; a lower hard one stays."""
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(which, (limit, limit))


def prctl(option: int, argument: int) -> None:
    """prctl(2); raises OSError."""
    call("prctl", option, argument, 0, 0, 0)


def _can_read(path: str) -> bool:
    """False for an interpreter in a private home, once the uid is another."""
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False


def _effective_capabilities() -> int:
    """The mask by capget(2): works without /proc."""
    data = ctypes.create_string_buffer(24)
    call("capget", _CAPABILITIES_V3, data)
    low, _, _, high, _, _ = struct.unpack("<6I", data.raw)
    return int(low | high << 32)
