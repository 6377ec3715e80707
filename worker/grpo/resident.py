"""The most memory that this process has held."""

import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """Return the most bytes that were in memory at once since this program began.

    From the kernel's `VmHWM`. `ru_maxrss` outlives `exec`: on Linux it counts what the process
    held that started this one.
    """
    if not _STATUS.exists():  # On macOS, where it is in bytes and begins with the program.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [line] = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024
