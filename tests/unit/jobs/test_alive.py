"""Signs of life: a health check that can fail."""

import os
import subprocess
import sys
import time
from pathlib import Path

from jobs import alive
from jobs.settings import Settings


def test_a_process_is_well_while_it_gives_signs(tmp_path: Path) -> None:
    here = Settings(data_dir=tmp_path, worker_name="a")
    assert alive.fault(here, "sweeper") == "There has been no sign of sweeper of a yet."
    alive.beat(here, "sweeper")
    assert alive.fault(here, "sweeper") is None
    assert alive.fault(Settings(data_dir=tmp_path, worker_name="b"), "sweeper") is not None
    (sign,) = (tmp_path / "run" / "alive").iterdir()
    long_ago = time.time() - 100
    os.utime(sign, (long_ago, long_ago))
    assert alive.fault(here, "sweeper") == "The last sign of sweeper of a was 100 seconds ago."


def test_the_check_is_a_command(tmp_path: Path) -> None:
    environ = {**os.environ, "HONED_DATA_DIR": str(tmp_path), "HONED_WORKER_NAME": "a"}

    def check() -> tuple[int, str]:
        command = [sys.executable, "-m", "jobs.alive", "worker"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert check() == (1, "There has been no sign of worker of a yet.\n")
    alive.beat(Settings(data_dir=tmp_path, worker_name="a"), "worker")
    assert check() == (0, "")
