"""Runs a command that ends when its parent does: `python -m service.tether PARENT_PID COMMAND...`.

Between fork and exec only async-signal-safe calls are sound, so the tie is made in a process of
its own, which then becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def tie_to_parent(parent_pid: int) -> None:
    """Have the kernel send this process SIGTERM when its parent ends (on Linux; else nothing)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        sys.exit("the parent ended before the tie was made")


def main() -> None:
    """Tie, then become the command."""
    tie_to_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
