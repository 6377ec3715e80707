"""Disposable children of the harness: forked, locked, watched from outside, killed."""

import contextlib
import os
import select
import signal
import time
from collections import namedtuple
from collections.abc import Callable, Container, Sequence

from .lockdown import ChildLock

_CPU_CLOCK = 2


# The harness's ends of a child's two pipes.
Pipes = namedtuple("Pipes", "rows verdicts")
# The row that a child is at.
Job = namedtuple("Job", "row_id nonce wanted started cpu_before")


class Child:
    """A forked process that runs `work` once it is locked."""

    def __init__(
        self,
        lock: ChildLock,
        work: Callable[[], None],
        *,
        cpu_seconds: float,
        prepare: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        """Fork. `prepare` runs before the lock; the descriptors it returns are kept too."""
        rows_read, rows_write = os.pipe()
        verdicts_read, verdicts_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                lock.keep([rows_read, verdicts_write, *prepare()])
                lock.close(cpu_seconds=cpu_seconds)
                work()
                os._exit(0)
            except BaseException:  # whatever happens, this copy of the harness ends here
                os._exit(70)
        os.close(rows_read)
        os.close(verdicts_write)
        self.pipes = Pipes(rows_write, verdicts_read)
        self.job: Job | None = None
        self.num_rows = 0
        self.ran_text = False

    def cpu_seconds(self) -> float:
        """CPU time used so far, by the clock of the process; 0 once it is gone."""
        try:
            return time.clock_gettime((~self.pid << 3) | _CPU_CLOCK)
        except OSError:
            return 0.0

    def kill(self) -> None:
        """End it without waiting for its end. It is still to be reaped."""
        os.close(self.pipes.rows)
        os.close(self.pipes.verdicts)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kill and reap it; how it died, in words. One that was dying keeps its own end.

        Killed first, always: a child that closed its pipes may live on, and would never be reaped.
        """
        self.kill()
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"it ended with exit status {code}"
        if -code == signal.SIGKILL:
            return "it was killed: out of memory, or it closed the channel of its verdict"
        return f"it was ended by signal {-code}"


def ask_once(
    lock: ChildLock, work: Callable[[], None], *, seconds: float, max_bytes: int = 1 << 16
) -> tuple[bytes, str]:
    """What a child of its own writes until it ends or the time is up, and how it died."""
    child = Child(lock, work, cpu_seconds=seconds)
    answer, deadline = b"", time.monotonic() + seconds
    poller = select.poll()
    poller.register(child.pipes.verdicts, select.POLLIN)
    while len(answer) < max_bytes:
        left = deadline - time.monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            break
        part = os.read(child.pipes.verdicts, 65536)
        if not part:
            break
        answer += part
    return answer, child.end()


def reap_strangers(known: Container[int]) -> None:
    """Reap what was left to this process by children that are gone."""
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in known:
                return  # its end is still to be told
            os.waitpid(found.si_pid, 0)
