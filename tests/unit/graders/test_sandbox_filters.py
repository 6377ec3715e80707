"""The seccomp filters, run by an interpreter of their own language: exactly what they allow."""

import errno
import struct

import pytest

from jobs.graders.sandbox.inside import seccomp, syscalls
from jobs.graders.sandbox.inside.seccomp import Filter

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
O_WRONLY, O_CREAT, O_TRUNC, O_TMPFILE = 1, 0o100, 0o1000, 0o20000000


def verdict(program: Filter, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the filter returns for a call: classic BPF over struct seccomp_data."""
    arch = AUDIT_ARCH[syscalls.ARCHITECTURE] if arch is None else arch
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    steps = list(struct.iter_unpack("<HBBI", program._program.raw))
    place = accumulator = 0
    while True:
        code, if_true, if_false, operand = steps[place]
        place += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x15:
            place += if_true if accumulator == operand else if_false
        elif code == 0x35:
            place += if_true if accumulator >= operand else if_false
        elif code == 0x54:
            accumulator &= operand
        else:
            assert code == 0x06
            return operand


@pytest.fixture(params=[False, True], ids=["open", "sealed"])
def is_sealed(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def number(name: str) -> int:
    found = syscalls.number(name)
    if found is None:
        pytest.skip(f"this architecture has no {name}")
    return found


def test_every_call_by_number_is_on_the_list_or_refused(is_sealed: bool) -> None:
    program = seccomp.harness_filter(is_sealed=is_sealed)
    listed = set(seccomp._ALWAYS.split())
    listed |= set() if is_sealed else set(seccomp._FILES.split())
    conditional = {"mmap", "mprotect", "clone", "fcntl"}  # allowed with all arguments zero
    conditional |= {"prlimit64"} | (set() if is_sealed else {"open", "openat"})
    allowed = {syscalls.number(name) for name in listed | conditional} - {None}
    missing = {syscalls.number(name) for name in ("clone3", "openat2")}
    for call in range(470):
        expected = ERRNO | (errno.ENOSYS if call in missing else errno.EPERM)
        assert verdict(program, call) == (ALLOW if call in allowed else expected), call


def test_a_foreign_abi_is_killed(is_sealed: bool) -> None:
    for program in (seccomp.harness_filter(is_sealed=is_sealed), seccomp.grader_filter()):
        assert verdict(program, number("read"), arch=0x40000003) == KILL  # i386, by int 0x80
        if syscalls.ARCHITECTURE == "x86_64":
            assert verdict(program, 0x40000000 + number("read")) == KILL  # x32


@pytest.mark.parametrize("flags", [O_WRONLY, 2, O_CREAT, O_TRUNC, O_TMPFILE, O_WRONLY | O_CREAT])
def test_files_open_for_reading_only(flags: int) -> None:
    program = seccomp.harness_filter(is_sealed=False)
    assert verdict(program, number("openat"), 3, 0, 0o2000000) == ALLOW  # O_CLOEXEC
    assert verdict(program, number("openat"), 3, 0, flags) == ERRNO | errno.EPERM


def test_arguments_are_looked_at(is_sealed: bool) -> None:
    program = seccomp.harness_filter(is_sealed=is_sealed)
    refused = ERRNO | errno.EPERM
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x80, 0x02000000):  # CLONE_NEW*
        assert verdict(program, number("clone"), flag | 17) == refused
    assert verdict(program, number("fcntl"), 0, 8) == refused  # F_SETOWN
    assert verdict(program, number("fcntl"), 0, 10) == refused  # F_SETSIG
    assert verdict(program, number("fcntl"), 0, 1031) == refused  # F_SETPIPE_SZ
    assert verdict(program, number("ioctl"), 0, 0x5412) == refused  # TIOCSTI
    assert verdict(program, number("prlimit64"), 1) == refused
    assert verdict(program, number("prctl"), 36) == refused
    executable = refused if is_sealed else ALLOW
    assert verdict(program, number("mmap"), 0, 0, 4) == executable
    assert verdict(program, number("mprotect"), 0, 0, 4) == executable


def test_graders_lose_what_the_harness_needs() -> None:
    program = seccomp.grader_filter()
    for name in ("kill", "tgkill", "clone", "execve", "seccomp", "splice", "prctl"):
        assert verdict(program, number(name)) == ERRNO | errno.EPERM
    for name in ("read", "write", "mmap", "exit_group", "openat"):
        assert verdict(program, number(name)) == ALLOW
