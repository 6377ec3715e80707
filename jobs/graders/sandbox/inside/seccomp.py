"""seccomp filters: which system calls the harness may make, and which of those a grader may not.

An allow-list of plain classic BPF (https://docs.kernel.org/userspace-api/seccomp_filter.html),
so that it is the same everywhere and can be read. What is refused answers EPERM, which Python
raises as PermissionError with a line number; a foreign ABI is killed.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable

from .syscalls import ARCHITECTURE, call, number

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_KILL_PROCESS, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_SET_MODE_FILTER, ALL_THREADS = 1, 1
_ARCH_OFFSET, _NUMBER_OFFSET, _ARGUMENTS_OFFSET = 4, 0, 16
_X32_BIT = 0x40000000

# O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_TMPFILE: what makes an open more than reading.
_WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000
# CLONE_NEW*; NEWTIME is 0x80.
_NEW_NAMESPACES = 0x7E020000 | 0x80
_PROT_EXEC = 4
# DUPFD GETFD SETFD GETFL SETFL DUPFD_CLOEXEC. Not F_SETOWN or F_SETSIG, by which the kernel sends
# signals for you; not F_SETPIPE_SZ, which hides memory.
_FCNTL = (0, 1, 2, 3, 4, 1030)
# TCGETS FIOCLEX FIONCLEX FIONREAD.
_IOCTL = (0x5401, 0x5451, 0x5450, 0x541B)
# PR_SET_PDEATHSIG PR_SET_NAME PR_GET_NAME.
_PRCTL = (1, 15, 16)

_ALWAYS = """
read write close close_range munmap mremap madvise brk futex rt_sigaction
rt_sigprocmask rt_sigreturn sigaltstack clock_gettime clock_getres gettimeofday time nanosleep
clock_nanosleep getrandom getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid
getgroups getrusage times uname sysinfo sched_yield sched_getaffinity poll ppoll select pselect6
pipe pipe2 dup dup2 dup3 readv writev splice fstat lseek exit exit_group wait4 waitid
restart_syscall set_robust_list set_tid_address rseq getitimer setitimer alarm pause getrlimit
fork vfork kill tkill tgkill seccomp landlock_create_ruleset landlock_add_rule
landlock_restrict_self
"""
_FILES = """
stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd
getdents64 pread64
"""
_NOT_FOR_GRADERS = """
kill tkill tgkill fork vfork clone execve execveat seccomp splice prctl
landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""


class Filter:
    """A program ready to be installed by one call; made once, used after every fork."""

    def __init__(self, program: bytes) -> None:
        self._program = ctypes.create_string_buffer(program, len(program))
        self._header = _Header(len(program) // 8, ctypes.addressof(self._program))

    def install(self, flags: int = 0) -> None:
        """Bind this thread, for good, or with ALL_THREADS the whole process; raises OSError."""
        call("seccomp", _SET_MODE_FILTER, flags, ctypes.byref(self._header))


class _Header(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_void_p))


def harness_filter(*, is_sealed: bool) -> Filter:
    """Everything the sandbox may do; sealed: no call that takes a path, no executable memory."""
    program = _head() + [part for name in _ALWAYS.split() for part in _allow(name)]
    for name in ("mmap", "mprotect"):
        program += _allow(name, _none_of(2, _PROT_EXEC) if is_sealed else None)
    program += _allow("clone", _none_of(0, _NEW_NAMESPACES))
    program += _allow("fcntl", _one_of(1, _FCNTL))
    program += _allow("ioctl", _one_of(1, _IOCTL))
    program += _allow("prlimit64", _one_of(0, (0,)))  # its own limits only
    program += _allow("prctl", _one_of(0, _PRCTL))
    if not is_sealed:
        program += [part for name in _FILES.split() for part in _allow(name)]
        program += _allow("open", _none_of(1, _WRITING)) + _allow("openat", _none_of(2, _WRITING))
    for name in ("clone3", "openat2"):
        # Their flags lie behind a pointer, where a filter cannot look; libc falls back.
        program += [_equal(_known(name), 0, 1), _return(_ERRNO | errno.ENOSYS)]
    program.append(_return(_ERRNO | errno.EPERM))
    return Filter(b"".join(program))


def grader_filter() -> Filter:
    """What a disposable child gives up beside that, before it runs a user's code."""
    program = _head()
    for name in _NOT_FOR_GRADERS.split():
        if number(name) is not None:
            program += [_equal(_known(name), 0, 1), _return(_ERRNO | errno.EPERM)]
    program.append(_return(_ALLOW))
    return Filter(b"".join(program))


def _head() -> list[bytes]:
    program = [
        _load(_ARCH_OFFSET),
        _equal(_AUDIT_ARCH[ARCHITECTURE], 1, 0),
        _return(_KILL_PROCESS),
        _load(_NUMBER_OFFSET),
    ]
    if ARCHITECTURE == "x86_64":  # x32 numbers would slip past a comparison of plain numbers
        program += [_instruction(0x35, 0, 1, _X32_BIT), _return(_KILL_PROCESS)]
    return program


def _allow(name: str, check: list[bytes] | None = None) -> list[bytes]:
    """Allow a call, always or where `check` (which ends in allow) passes; else EPERM."""
    if number(name) is None:
        return []
    if check is None:
        return [_equal(_known(name), 0, 1), _return(_ALLOW)]
    body = [*check, _return(_ERRNO | errno.EPERM)]
    return [_equal(_known(name), 0, len(body)), *body]


def _one_of(argument: int, values: Iterable[int]) -> list[bytes]:
    checks = [part for value in values for part in (_equal(value, 0, 1), _return(_ALLOW))]
    return [_load_argument(argument), *checks]


def _none_of(argument: int, bits: int) -> list[bytes]:
    return [
        _load_argument(argument),
        _instruction(0x54, 0, 0, bits),  # AND
        _equal(0, 0, 1),
        _return(_ALLOW),
    ]


def _known(name: str) -> int:
    found = number(name)
    assert found is not None
    return found


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, operand & 0xFFFFFFFF)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _load_argument(index: int) -> bytes:
    return _load(
        _ARGUMENTS_OFFSET + 8 * index
    )  # the low half: both architectures are little endian


def _equal(value: int, if_true: int, if_false: int) -> bytes:
    return _instruction(0x15, if_true, if_false, value)


def _return(value: int) -> bytes:
    return _instruction(0x06, 0, 0, value)
