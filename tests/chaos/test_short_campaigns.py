"""A short campaign on each topology: after each of its faults, everything that must hold does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from servers import has_own_servers, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# The kinds that each took something else than the others did to be survived.
KINDS = {
    "embedded": {
        "kill_trainer",
        "corrupt_checkpoint",
        "kill_service",
        "kill_pool_process",
        "contend_for_database",
    },
    "scaled": {
        "kill_celery_parent",
        "stop_database",
        "cut_connections",
        "stop_broker",
        "suspend_supervisor",
        "corrupt_checkpoint",
    },
}


@pytest.mark.parametrize(("topology", "seed"), [("embedded", 120), ("scaled", 312)])
def test_a_short_campaign_breaks_nothing(topology: str, seed: int) -> None:
    if topology == "scaled" and not has_own_servers():
        missing("The scaled topology needs the servers of PostgreSQL and Redis installed here.")
    kinds = sorted(KINDS[topology])
    asked = f"--faults {len(kinds)} --seed {seed} --topology {topology} --only {','.join(kinds)}"
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).parent), *asked.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as campaign:
        try:
            said, _ = campaign.communicate(timeout=840)
        finally:
            campaign.terminate()  # in order: it unmounts, and leaves no process behind
    last = said.splitlines()[-1]
    assert last.startswith("{"), said
    told = json.loads(last)
    assert told["violated"] == [], said
    assert campaign.returncode == 0
    assert told["faults"] == dict.fromkeys(kinds, 1)
    assert told["survived"] == told["jobs"] > 1
