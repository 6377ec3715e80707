"""How a sandbox's process is started: interpreter, readable paths, bubblewrap's arguments.

By exec, never by a fork of this process, whose memory holds secrets; and by one thread that lives
as long as this process, because the kernel ends a child when the *thread* that started it ends.
"""

from __future__ import annotations

import compileall
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
# The loader of this very folder as the package `inside`; main sets the real path.
_ENTRY = "import sys; sys.path.insert(0, sys.argv[1]); import inside.main; inside.main.start()"
_FLAGS = ("-s", "-S", "-P", "-B", "-X", "utf8")
# The first victim where memory runs out; bwrap shows no /proc, so before it starts.
_SHELL = ("/bin/sh", "-c", 'echo 1000 >/proc/self/oom_score_adj 2>/dev/null; exec "$@"', "sh")
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}
NOBODY = 65534

_spawner = ThreadPoolExecutor(1, thread_name_prefix="sandbox-spawner")


@dataclass(frozen=True)
class Layout:
    """The interpreter that runs graders and what it has to read."""

    interpreter: str
    path: tuple[str, ...]
    readable: tuple[str, ...]


@functools.cache
def layout() -> Layout:
    """This process's own interpreter with its packages, none of this project's."""
    interpreter = os.path.realpath(sys.executable)
    # The sandbox writes no bytecode, so that without this each start compiles its own modules.
    compileall.compile_dir(str(_HERE / "inside"), quiet=2)
    standard = sysconfig.get_path("stdlib")
    packages = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    site = [path for path in packages if os.path.isdir(path)]
    readable = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    readable += ["/usr/share/zoneinfo", "/dev/null", "/dev/urandom", standard, *site]
    readable.append(str(_HERE / "inside"))
    if sys.base_prefix != "/usr":
        readable += [os.path.join(sys.base_prefix, "lib"), interpreter]
    return Layout(
        interpreter=interpreter,
        path=(standard, os.path.join(standard, "lib-dynload"), *site),
        readable=tuple(path for path in dict.fromkeys(readable) if os.path.exists(path)),
    )


def spawn(*, with_bubblewrap: bool) -> subprocess.Popen[bytes]:
    """Start the process, its pipes on stdin, stdout and stderr; raises OSError."""
    inner = (layout().interpreter, *_FLAGS, "-c", _ENTRY, str(_HERE))
    command = (*_SHELL, *(_bubblewrap() if with_bubblewrap else ()), *inner)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )

    try:
        return _spawner.submit(start).result()
    except RuntimeError as error:  # the interpreter is shutting down, and its executors with it
        raise OSError(str(error)) from None


def _bubblewrap() -> list[str]:
    found = shutil.which("bwrap")
    if found is None:
        raise OSError("bubblewrap is not installed")
    arguments = [found, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    arguments += ["--unshare-cgroup-try", "--die-with-parent", "--new-session"]
    arguments += ["--hostname", "grader", "--chdir", "/", "--clearenv"]
    for name, value in _ENVIRONMENT.items():
        arguments += ["--setenv", name, value]
    arguments += _identity(found)
    return [*arguments, *_mounts(), "--"]


def _identity(bubblewrap: str) -> list[str]:
    if os.geteuid() == 0:
        # Run by root it keeps every capability otherwise; these two go once the uid is dropped.
        return ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    arguments = ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    return arguments + (["--disable-userns"] if "--disable-userns" in _help(bubblewrap) else [])


def _mounts() -> list[str]:
    """An empty root with the interpreter and its libraries, read-only. No /proc, /tmp or /sys."""
    system = [path for path in ("/usr/lib", "/usr/lib64") if os.path.isdir(path)]
    wanted = [*layout().readable, layout().interpreter]
    binds = system + [path for path in wanted if not path.startswith(("/usr/lib", "/lib", "/dev/"))]
    binds = list(dict.fromkeys(binds))
    arguments = ["--tmpfs", "/"]
    for parent in sorted({str(parent) for path in binds for parent in Path(path).parents[:-1]}):
        if parent not in binds:  # made by bwrap itself they are 0700: unreadable to the dropped uid
            arguments += ["--perms", "0755", "--dir", parent]
    for path in binds:
        arguments += ["--ro-bind", path, path]
    for path in ("/lib", "/lib64"):
        if os.path.islink(path):
            arguments += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            arguments += ["--ro-bind", path, path]
    arguments += ["--perms", "0755", "--dir", "/dev"]
    for device in ("/dev/null", "/dev/urandom"):
        arguments += ["--dev-bind", device, device]
    return [*arguments, "--remount-ro", "/"]


@functools.cache
def _help(bubblewrap: str) -> str:
    return subprocess.run(
        [bubblewrap, "--help"], capture_output=True, text=True, check=False, timeout=10
    ).stdout
