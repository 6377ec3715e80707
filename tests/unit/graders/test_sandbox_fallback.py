"""Where the kernel gives no namespaces, as in many containers, graders run under Landlock."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Limits of namespaces can be set in a user namespace of one's own, and hold for it alone.
NO_NAMESPACES = 'for kind in /proc/sys/user/max_*_namespaces; do echo 0 > "$kind"; done; exec "$@"'
IN_OWN = ("unshare", "--user", "--map-root-user")

GRADES = """
    from jobs.graders import parse_grader
    from jobs.graders.grade import Sample
    from jobs.graders.sandbox import isolation, pools

    found = isolation.isolation()
    print(found.level, found.reason)
    source = "def grade(sample, item):\\n    open('/etc/passwd')\\n    return 1.0\\n"
    for source in ("def grade(sample, item):\\n    return 0.5\\n", source):
        with pools.on_behalf_of("tests"):
            print(parse_grader({"type": "python", "source": source}).grade(Sample("a"), {}).reward)
    pools.close_all()
"""


def test_without_namespaces_it_falls_back_to_landlock() -> None:
    if subprocess.run([*IN_OWN, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives no user namespace, in which to try it without any")
    ran = subprocess.run(
        [*IN_OWN, "sh", "-c", NO_NAMESPACES, "sh", sys.executable, "-c", textwrap.dedent(GRADES)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    level, allowed, forbidden = ran.stdout.splitlines()
    assert level.startswith("landlock bwrap: "), ran.stderr
    assert allowed == "0.5"
    assert forbidden == "None"
