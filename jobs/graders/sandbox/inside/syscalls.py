"""System calls by number, and the few that Python has no function for."""

import ctypes
import errno
import os
import platform

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

ARCHITECTURE = platform.machine()
_COLUMN = {"x86_64": 0, "aarch64": 1}
_ABSENT = "-"

# name, number on x86_64, number on aarch64 (asm-generic/unistd.h).
_TABLE = """
read 0 63 / write 1 64 / open 2 - / close 3 57 / stat 4 - / fstat 5 80 / lstat 6 - / poll 7 -
lseek 8 62 / mmap 9 222 / mprotect 10 226 / munmap 11 215 / brk 12 214 / rt_sigaction 13 134
rt_sigprocmask 14 135 / rt_sigreturn 15 139 / ioctl 16 29 / pread64 17 67 / readv 19 65
writev 20 66 / access 21 - / pipe 22 - / select 23 - / sched_yield 24 124 / mremap 25 216
madvise 28 233 / dup 32 23 / dup2 33 - / pause 34 - / nanosleep 35 101 / getitimer 36 102
alarm 37 - / setitimer 38 103 / getpid 39 172 / socket 41 198 / clone 56 220 / fork 57 -
vfork 58 - / execve 59 221 / exit 60 93 / wait4 61 260 / kill 62 129 / uname 63 160
fcntl 72 25 / getcwd 79 17 / readlink 89 - / gettimeofday 96 169 / getrlimit 97 163
getrusage 98 165 / sysinfo 99 179 / times 100 153 / ptrace 101 117 / getuid 102 174
getgid 104 176 / geteuid 107 175 / getegid 108 177 / getppid 110 173 / getgroups 115 158
getresuid 118 148 / getresgid 120 150 / capget 125 90 / capset 126 91 / sigaltstack 131 132
prctl 157 167 / gettid 186 178 / tkill 200 130 / time 201 - / futex 202 98
sched_getaffinity 204 123 / getdents64 217 61 / set_tid_address 218 96 / restart_syscall 219 128
clock_gettime 228 113 / clock_getres 229 114 / clock_nanosleep 230 115 / exit_group 231 94
tgkill 234 131 / waitid 247 95 / openat 257 56 / newfstatat 262 79 / readlinkat 267 78
faccessat 269 48 / pselect6 270 72 / ppoll 271 73 / unshare 272 97 / set_robust_list 273 99
splice 275 76 / dup3 292 24 / pipe2 293 59 / prlimit64 302 261 / seccomp 317 277
getrandom 318 278 / execveat 322 281 / statx 332 291 / rseq 334 293 / io_uring_setup 425 425
clone3 435 435 / close_range 436 436 / openat2 437 437 / faccessat2 439 439
landlock_create_ruleset 444 444 / landlock_add_rule 445 445 / landlock_restrict_self 446 446
"""
_NUMBERS = {
    name: columns
    for name, *columns in (entry.split() for entry in _TABLE.replace("\n", "/").split("/") if entry)
}


def number(name: str) -> int | None:
    """The call's number on this machine, None where this architecture has no such call."""
    if ARCHITECTURE not in _COLUMN:
        raise OSError(errno.ENOSYS, f"no table of system calls for {ARCHITECTURE}")
    column = _NUMBERS[name][_COLUMN[ARCHITECTURE]]
    return None if column == _ABSENT else int(column)


def call(name: str, *arguments: object) -> int:
    """The call's result; raises OSError. Integers are passed as longs, whole registers."""
    ctypes.set_errno(0)
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(libc.syscall(number(name), *wide))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result
