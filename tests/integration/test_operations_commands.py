"""The commands of the page for the person on call, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environ
from stacks import ROOT, Stack, stack

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)


def run(block: str, running: Stack, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace(":8000", f":{running.port}")],
        cwd=folder,
        env=environ(port=running.port) | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_works(tmp_path: Path) -> None:
    assert len(BLOCKS) == 5
    with stack(tmp_path / "honed-data") as running:
        said = [run(block, running, tmp_path) for block in BLOCKS]
        running.stop()
    looked, _, _, _, restored = said
    assert '"status":"ready"' in looked
    assert "Nothing is broken." in looked
    # The copy is a stack of its own: what it lacks is processes.
    assert "Nothing is broken." in restored
    assert (tmp_path / "restored" / "key").read_bytes() == (
        tmp_path / "honed-data" / "key"
    ).read_bytes()
