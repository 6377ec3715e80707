"""`make chaos FAULTS=N SEED=S TOPOLOGY=embedded|scaled`: real faults over real jobs.

Prints what it does, and as its last line one JSON object. Exit code 1 when an invariant was broken.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "e2e")]

from campaign import Campaign  # noqa: E402 - the tests' folders are no packages
from damage import Disk, built_clock  # noqa: E402
from deck import faults_of  # noqa: E402
from topology import TOPOLOGIES, prepare  # noqa: E402

from jobs.errors import NoIsolation  # noqa: E402
from jobs.graders.sandbox.isolation import isolation  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--topology", choices=sorted(TOPOLOGIES), default="embedded")
    parser.add_argument("--only", default="", help="kinds of faults, with commas between")
    parser.add_argument("--keep", action="store_true", help="keep the stack's folder")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order: nothing stays behind
    root = Path(tempfile.mkdtemp(prefix="honed-chaos-"))
    started, folder = time.monotonic(), root / "data"

    def say(sentence: str) -> None:
        print(f"{time.monotonic() - started:7.1f}  {sentence}", flush=True)

    root.chmod(0o711)  # PostgreSQL has a user of its own, and maps its clock
    clock = built_clock(root)
    if not clock:
        say("left out: faults of the clock, which need a C compiler (cc)")
    prepare(folder, clock)
    topology = TOPOLOGIES[arguments.topology](folder)
    disks = [Disk(one, megabytes=size) for one, size in topology.disks.items()]
    has_disk = all(disk.mount() for disk in disks)
    if not has_disk:
        say("left out: full disks, which need the right to mount a file system")
    why_no_sandbox = _why_no_sandbox()
    if why_no_sandbox:
        say(f"left out: exhaust_sandbox. {why_no_sandbox}")
    wanted = set(filter(None, arguments.only.split(",")))
    faults = [
        fault
        for fault in faults_of(
            type(topology),
            has_disk=has_disk,
            has_clock=bool(clock),
            has_sandbox=why_no_sandbox is None,
        )
        if not wanted or fault.__name__ in wanted
    ]
    campaign = Campaign(topology, arguments.seed, say)
    say(f"{topology.name}, seed {arguments.seed}, in {root}")
    try:
        campaign.run(faults, arguments.faults)
    finally:
        if campaign.violations or arguments.keep:
            _keep_logs(folder, root / "kept")
        for disk in reversed(disks):
            disk.unmount()
        if not arguments.keep and not campaign.violations:
            shutil.rmtree(root, ignore_errors=True)
    if campaign.violations or arguments.keep:
        say(f"the stack's database and logs are kept: {root}")
    print(json.dumps({**campaign.summary(), "seconds": round(time.monotonic() - started)}))
    return 1 if campaign.violations else 0


def _why_no_sandbox() -> str | None:
    try:
        isolation()
    except NoIsolation as refusal:
        return str(refusal)
    return None


def _keep_logs(folder: Path, kept: Path) -> None:
    """Beside the file systems that go: database and logs, without the bytes of adapters."""
    ignored = shutil.ignore_patterns("artifacts", "broker", "run")
    shutil.copytree(folder, kept, ignore=ignored, dirs_exist_ok=True)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
