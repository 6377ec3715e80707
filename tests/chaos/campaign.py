"""A campaign: jobs of the starter model, one after the other, struck at moments of their lives."""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import invariants
import leftovers
from customer import STEPS, Customer
from deck import Strike, planned
from faults import Fault, Target
from moments import Standing, await_moment, standing
from topology import Topology

RECOVERY_SECONDS = 150.0


@dataclass
class Campaign:
    """What was done and what came of it."""

    topology: Topology
    seed: int
    say: Callable[[str], None]
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    """How each struck job had ended when it did."""
    num_jobs: int = 0
    num_survived: int = 0

    def run(self, faults: list[Fault], count: int) -> None:
        """From an undisturbed job to the stack's end."""
        random = Random(self.seed)
        self.topology.start()
        try:
            self.customer = Customer(self.topology.user)
            self.customer.prepare()
            undisturbed = self.customer.create_job()
            self.topology.user.wait_for_status(undisturbed, "succeeded", seconds=300)
            self.expected = invariants.adapter_sha256(self.topology, undisturbed)
            self.say(f"undisturbed: {undisturbed} {self.expected[:12]}")
            self.customer.start()
            for strikes in planned(faults, count, random):
                while strikes:
                    strikes = self._job(strikes, Random(random.random()))
            self._end()
        finally:
            self._stop()

    def _job(self, strikes: list[Strike], random: Random) -> list[Strike]:
        """One job from its POST to its end; the strikes that it ended before."""
        target = Target(self.topology, self.customer.create_job(), random, customer=self.customer)
        self.num_jobs += 1
        done = []
        for strike in strikes:
            if standing(self.topology, target.job_id).is_over:
                break
            done.append(strike)
            if not self._strike(strike, target):
                break
        self._judge(target, ", ".join(f"{one.name} ({one.moment})" for one in done))
        return strikes[len(done) :]

    def _judge(self, target: Target, suffered: str) -> None:
        job_id = target.job_id
        if not self._await_end(job_id):
            self._violation(f"{job_id} after {suffered}: it does not end")
            self.customer.cancel(job_id)
            return
        self.ends[job_id] = standing(self.topology, job_id).status
        found = [
            *invariants.broken_by_job(
                self.topology,
                job_id,
                expected_sha256=self.expected,
                excused=target.excused,
                damaged=target.damaged,
                is_cancelled=job_id in self.customer.ledger.cancelled,
            )
        ]
        self.num_survived += not found
        for sentence in found:
            self._violation(f"{job_id} after {suffered}: {sentence}")

    def _strike(self, strike: Strike, target: Target) -> bool:
        """Whether the job went on after it."""
        name = strike.name
        status = await_moment(
            strike.moment,
            self.topology,
            target.job_id,
            total_steps=STEPS,
            random=target.random,
        )
        target.excused.add(name)
        before = standing(self.topology, target.job_id)
        try:
            strike.fault(target)
        except Exception as error:
            self._violation(f"{target.job_id}: after {name} {error!r}")
            return False
        self.faults[name] += 1
        began, after = time.monotonic(), standing(self.topology, target.job_id)
        is_well = self._await(
            lambda: self._has_progressed(target.job_id, after) and self.topology.user.is_ready()
        )
        seconds = time.monotonic() - began
        self.recoveries.append(seconds)
        number = sum(self.faults.values())
        self.say(
            f"{number:4d} {name:20s} {strike.moment:10s} {target.job_id} was {status} at step "
            f"{before.step}, went on after {seconds:.1f} s"
        )
        if not is_well:
            now = standing(self.topology, target.job_id)
            self._violation(f"{target.job_id}: no progress {seconds:.0f} s after {name}: {now}")
        return is_well

    def _has_progressed(self, job_id: str, then: Standing) -> bool:
        now = standing(self.topology, job_id)
        return now.is_over or now.step > then.step

    def _await_end(self, job_id: str) -> bool:
        return self._await(lambda: standing(self.topology, job_id).is_over)

    def _await(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + RECOVERY_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _end(self) -> None:
        self.customer.stop()
        for job_id in self.customer.ledger.jobs:
            self._await_end(job_id)
        for sentence in invariants.broken_by_service(
            self.topology, self.customer.ledger, self.ends
        ):
            self._violation(sentence)
        for sentence in leftovers.broken_by_leftovers(self.topology):
            self._violation(sentence)

    def _stop(self) -> None:
        try:
            self.topology.stop()
        except Exception as error:
            self._violation(f"the stack did not stop in order: {error!r}")
        for sentence in leftovers.broken_by_processes(self.topology):
            self._violation(sentence)

    def _violation(self, sentence: str) -> None:
        self.violations.append(sentence)
        self.say(f"VIOLATION {sentence}")

    def summary(self) -> dict[str, Any]:
        recoveries = self.recoveries or [0.0]
        return {
            "faults": dict(sorted(self.faults.items())),
            "num_faults": sum(self.faults.values()),
            "jobs": self.num_jobs,
            "survived": self.num_survived,
            "violations": len(self.violations),
            "violated": self.violations,
            "recovery_seconds": {
                "median": round(statistics.median(recoveries), 1),
                "worst": round(max(recoveries), 1),
            },
            "seed": self.seed,
            "topology": self.topology.name,
        }
