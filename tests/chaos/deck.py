"""Which faults there are for a stack, and what each job of a campaign suffers, by its seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import damage
import outages
from faults import ANYWHERE, Fault, exhaust_sandbox
from moments import ORDER
from topology import ScaledUp, Topology

MAX_FAULTS_A_JOB = 4

# Before these there is nothing that they could strike.
EARLIEST = {
    "kill_trainer": "claimed",
    "hang_trainer": "claimed",
    "exhaust_memory": "claimed",
    "cancel_while_worker_dies": "claimed",
    "terminate_worker": "claimed",
    "corrupt_checkpoint": "stepping",
    "fill_disk": "stepping",
    "fill_database_disk": "claimed",
}

# Of a campaign: they take a minute each.
ONCE = {"stop_broker_for_a_minute", "stop_database_for_a_minute", "lock_database_for_a_minute"}

SCALED: tuple[Fault, ...] = (
    outages.stop_database,
    outages.stop_database_for_a_minute,
    outages.cut_connections,
)
EMBEDDED: tuple[Fault, ...] = (outages.lock_database_for_a_minute, outages.contend_for_database)


def faults_of(
    topology: type[Topology], *, has_disk: bool, has_clock: bool, has_sandbox: bool
) -> list[Fault]:
    """Every kind of fault that can be done to a stack here."""
    is_scaled = topology is ScaledUp
    faults = [
        *ANYWHERE,
        outages.stop_broker,
        outages.stop_broker_for_a_minute,
        outages.flush_broker,
        outages.duplicate_messages,
        outages.reorder_messages,
        outages.lock_database,
        damage.corrupt_checkpoint,
        *(SCALED if is_scaled else EMBEDDED),
    ]
    if has_sandbox:
        faults.append(exhaust_sandbox)
    if has_disk:
        faults += [damage.fill_disk, *([] if is_scaled else [damage.fill_database_disk])]
    if has_clock:
        faults += [damage.jump_clock, damage.lose_worker_and_set_back_clock]
        faults += [damage.jump_database_clock] if is_scaled else []
    return faults


@dataclass
class Strike:
    fault: Fault
    moment: str

    @property
    def name(self) -> str:
        return self.fault.__name__


def planned(faults: list[Fault], count: int, random: Random) -> Iterator[list[Strike]]:
    """What each job suffers. Every kind comes once before any comes again."""
    deck = random.sample(faults, len(faults))
    again = [fault for fault in faults if fault.__name__ not in ONCE] or faults
    while count:
        strikes = []
        for _ in range(min(count, random.randint(1, MAX_FAULTS_A_JOB))):
            if not deck:
                deck = random.sample(again, len(again))
            fault = deck.pop()
            earliest = ORDER.index(EARLIEST.get(fault.__name__, ORDER[0]))
            strikes.append(Strike(fault, random.choice(ORDER[earliest:])))
        count -= len(strikes)
        yield sorted(strikes, key=lambda strike: ORDER.index(strike.moment))
