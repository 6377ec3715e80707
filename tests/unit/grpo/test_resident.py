"""The peak that a process reads of itself: what it held, and not what its parent did."""

import subprocess
import sys

from worker.grpo.resident import peak_resident_bytes

MIB = 2**20

READ = """
import sys
from worker.grpo.resident import peak_resident_bytes

held = bytearray(b"x") * int(sys.argv[1])
del held
print(peak_resident_bytes())
"""


def peak_of_a_program(num_bytes: int) -> int:
    command = [sys.executable, "-c", READ, str(num_bytes)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_program_s_peak_is_its_own() -> None:
    """Though it was started by a process that holds 400 MiB."""
    nothing = peak_of_a_program(0)
    large = bytearray(b"x") * (400 * MIB)
    assert peak_resident_bytes() > len(large)
    assert peak_of_a_program(0) < nothing + 100 * MIB


def test_what_was_given_back_counts() -> None:
    nothing, held = peak_of_a_program(0), peak_of_a_program(200 * MIB)
    assert 150 * MIB < held - nothing < 250 * MIB
