"""The attacks once more as an ordinary user: bubblewrap by a user namespace, Landlock unsealed."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BINS = ("/usr/bin", "/usr/local/bin")
REACHES_ITSELF = "import os, sys; sys.exit(not os.access(sys.executable, os.R_OK))"
USER = "12345"
AS_USER = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups")


def missing(reason: str) -> None:
    """In CI everything must be there; elsewhere the test says what it lacks."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def interpreter() -> str:
    """One of this very version that an ordinary user may run."""
    version = f"python3.{sys.version_info.minor}"
    for path in (os.path.realpath(sys.executable), *(f"{bin}/{version}" for bin in BINS)):
        # setpriv can start what its user cannot reach.
        command = [*AS_USER, path, "-c", REACHES_ITSELF]
        if os.path.exists(path) and not subprocess.run(command, capture_output=True).returncode:
            return path
    missing(f"no {version} that an ordinary user may run, for the tests of the sandbox as one")
    raise AssertionError


@pytest.mark.slow
def test_every_attack_as_an_ordinary_user(tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user; as one, the attacks ran as themselves")
    ran = subprocess.run(
        [*AS_USER, interpreter(), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "--basetemp", "/tmp/honed-attacks-as-user", "--rootdir", str(ROOT),
         "tests/unit/graders/test_sandbox_attacks.py"],
        cwd=ROOT,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )  # fmt: skip
    shutil.rmtree("/tmp/honed-attacks-as-user", ignore_errors=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert "skipped" not in ran.stdout
