"""The self-test: a locked child attacks its own sandbox, and any success refuses the level.

Layers overlap and hide a missing one, so each is also asked for something that only it refuses.
"""

import ctypes
import errno
import os
from collections.abc import Callable

from .lockdown import MIB, Limits, Locked
from .syscalls import call

_AF_UNIX, _AF_INET, _SOCK_STREAM = 1, 2, 1
_PTRACE_ATTACH, _CLONE_NEWUSER, _PR_GET_NAME = 16, 0x10000000, 16
# What the launcher sets, and what a shell adds on its way.
_HARMLESS_NAMES = {
    "LANG",
    "LC_CTYPE",
    "PYTHONHASHSEED",
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
}


def leaks(harness: int, locked: Locked, limits: Limits) -> dict[str, str]:
    """What this process, a locked child of `harness`, could do and must not; empty when safe."""
    attempts: dict[str, Callable[[], object]] = {
        "read /etc/passwd": lambda: _read("/etc/passwd"),
        "list /home": lambda: os.listdir("/home"),
        "read the harness's environment": lambda: _read(f"/proc/{harness}/environ"),
        "write a file": lambda: os.open("/tmp/honed-attest", os.O_WRONLY | os.O_CREAT),
        "open an internet socket": lambda: call("socket", _AF_INET, _SOCK_STREAM, 0),
        "open a unix socket": lambda: call("socket", _AF_UNIX, _SOCK_STREAM, 0),
        "signal the harness": lambda: os.kill(harness, 0),
        "name a thread (the grader's own filter)": lambda: call(
            "prctl", _PR_GET_NAME, ctypes.create_string_buffer(16), 0, 0, 0
        ),
        "fork": lambda: os.fork() or os._exit(0),
        "execute a program": lambda: os.execv("/bin/true", ["true"]),
        "trace the harness": lambda: call("ptrace", _PTRACE_ATTACH, harness, 0, 0),
        "use io_uring": lambda: call("io_uring_setup", 1, ctypes.create_string_buffer(256)),
        "make a user namespace": lambda: call("unshare", _CLONE_NEWUSER),
        "take more memory": lambda: bytearray(limits.memory_mb * MIB + 64 * MIB) and None,
    }
    found = {name: outcome for name, try_it in attempts.items() if (outcome := _tried(try_it))}
    if names := set(os.environ) - _HARMLESS_NAMES:
        found["an environment"] = ", ".join(sorted(names))
    if locked.capabilities:
        found["capabilities"] = f"{locked.capabilities:x}"
    return found


def _tried(attempt: Callable[[], object]) -> str | None:
    """None when it was refused."""
    try:
        result = attempt()
    except MemoryError:
        return None
    except OSError as error:
        # EFAULT means that the kernel was about to do it.
        return "the kernel looked at its arguments" if error.errno == errno.EFAULT else None
    return f"got {result!r:.80}"


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)
