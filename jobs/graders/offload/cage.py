"""What surrounds a worker process: no network, no files but Python's own, no environment.

Some of the libraries that run there evaluate parts of the text they grade as Python (sympy's
parser, several of reasoning-gym's scorers), and the text is a model's, which somebody trained.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import jobs

_ROOT = Path(jobs.__file__).resolve().parent.parent
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives")
_PROBE_SECONDS = 20.0


def command(module: str, *arguments: str) -> list[str]:
    """How to start `python -m module`, in a cage where this machine can build one."""
    python = [sys.executable, "-m", module, *arguments]
    return [*_bubblewrap(), *python] if is_caged() else python


def environment() -> dict[str, str]:
    """Nothing of this process's own: it may hold keys."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": "/tmp",
        "PYTHONPATH": str(_ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


@functools.cache
def is_caged() -> bool:
    """Whether bubblewrap is installed and may build namespaces here."""
    if shutil.which("bwrap") is None:
        return False
    try:
        probe = subprocess.run(
            [*_bubblewrap(), sys.executable, "-c", "import jobs"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def readable() -> list[str]:
    """What a worker process may read."""
    paths = sysconfig.get_paths()
    prefixes = {
        sys.prefix,
        sys.base_prefix,
        str(Path(sys.executable).resolve().parent),
        paths["purelib"],
        paths["platlib"],
        str(_ROOT / "jobs"),
    }
    return [*_SYSTEM, *sorted(prefixes)]


def _bubblewrap() -> list[str]:
    return [
        "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        # Before what is readable, which may lie below it.
        *("--tmpfs", "/tmp"),
        *(part for path in readable() for part in ("--ro-bind-try", path, path)),
        *("--proc", "/proc", "--dev", "/dev", "--chdir", "/tmp"),
    ]
