"""`honed demo`, as a newcomer runs it: the last line is what programs read."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest


def demo(*arguments: str) -> tuple[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "demo", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=280,
    )
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_demo_lifts_the_held_out_accuracy_and_stops_all_it_started(tmp_path: Path) -> None:
    printed, said = demo("--folder", str(tmp_path / "demo"))

    assert said["status"] == "succeeded"
    assert said["n"] >= 200
    assert said["tuned"] >= said["baseline"] + 0.25
    assert said["interval"][0] > 0
    assert 0.2 <= said["baseline"] <= 0.45
    assert (Path(str(said["adapter"])) / "adapter_model.safetensors").is_file()
    for step in range(10, 81, 10):
        assert f"step {step}/80" in printed
    here = str(tmp_path)
    left = [p.info for p in psutil.process_iter(["cmdline"]) if here in str(p.info["cmdline"])]
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reward", "shown", "low", "high"),
    [
        # Words a sentence; the target is 4.
        ("length", "words a sentence", 3.0, 5.0),
        # Shares of sentences: without a blocked word, and with the animal's name.
        ("blocklist", "sentences without a blocked word", 0.9, 1.0),
        ("mixed", "sentences that name the animal", 0.0, 1.0),
    ],
)
def test_each_reward_moves_what_it_pays_for(
    tmp_path: Path, reward: str, shown: str, low: float, high: float
) -> None:
    printed, said = demo("--reward", reward, "--folder", str(tmp_path / "demo"))

    assert said["status"] == "succeeded"
    assert shown in printed
    assert low <= said["tuned"] <= high
    lower, upper = said["interval"]
    if reward == "length":
        assert upper < 0, "fewer words"
    else:
        assert lower > 0, "more such sentences"


def test_proof_shows_equal_gradients_and_constant_advantages(tmp_path: Path) -> None:
    printed, said = demo("--proof", "--folder", str(tmp_path / "proof"))

    assert said["function"] == said["table"]
    assert said["equal"] is True
    assert any(advantage != 0 for group in said["advantages"] for advantage in group)
    assert said["function"] in printed


def test_an_unknown_reward_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", "demo", "--reward", "beauty"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "answer, length, blocklist, mixed" in done.stderr
