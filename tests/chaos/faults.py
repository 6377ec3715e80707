"""Faults of processes: killed, ended, suspended, out of memory. Each returns when it is over."""

import contextlib
import resource
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import psutil
from customer import Customer
from moments import standing
from topology import LEASE_SECONDS, PROGRESS_SECONDS, Topology
from waiting import wait_for


@dataclass
class Target:
    """What a fault strikes at."""

    topology: Topology
    job_id: str
    random: Random
    customer: Customer
    """Who made the job, and insists until what is asked for is acknowledged."""
    excused: set[str] = field(default_factory=set)
    """Of a job: what may follow from what was done to it, and else would be a violation."""
    damaged: dict[str, int] = field(default_factory=dict)
    """Checkpoints whose bytes were harmed, and the attempt that this ended."""

    def trainers(self) -> list[psutil.Process]:
        """Those that run; one that is being started is waited for."""
        deadline = time.monotonic() + START_SECONDS
        while not (found := self.topology.processes("worker.train")):
            if time.monotonic() > deadline or standing(self.topology, self.job_id).is_over:
                break
        return found

    def worker(self) -> psutil.Process:
        """The main process of the Celery worker that holds the job, or of any."""
        holder = self.topology.holder(self.job_id)
        with contextlib.suppress(psutil.NoSuchProcess):
            if holder is not None and (parent := holder.parent()) is not None:
                return parent
        running = wait_for(self.topology.workers, seconds=60, what="a worker to run")
        return self.random.choice(running)


START_SECONDS = 10.0

Fault = Callable[[Target], None]


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def with_descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def kill_trainer(target: Target) -> None:
    send(target.trainers(), signal.SIGKILL)


def kill_pool_process(target: Target) -> None:
    holder = target.topology.holder(target.job_id)
    send([holder] if holder else target.topology.pool()[:1], signal.SIGKILL)


def kill_celery_parent(target: Target) -> None:
    send([target.worker()], signal.SIGKILL)


def kill_spare(target: Target) -> None:
    send(target.topology.processes("worker.spare"), signal.SIGKILL)


def kill_service(target: Target) -> None:
    send(target.topology.processes("service.serve"), signal.SIGKILL)


def kill_sweeper(target: Target) -> None:
    send(target.topology.processes("service.sweeper"), signal.SIGKILL)


def kill_serving(target: Target) -> None:
    """While it answers; it is over when it answers again."""
    answered(target)
    send(target.topology.processes("worker.serve"), signal.SIGKILL)
    answered(target)


def answered(target: Target) -> None:
    """A chat answer, asked for until it comes."""
    deadline = time.monotonic() + 120
    client = target.topology.user.client
    while True:
        try:
            client.chat.completions.create(
                model="honed/starter",
                messages=[{"role": "user", "content": "What is 2 + 3?"}],
                max_completion_tokens=4,
                timeout=30,
            )
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def cancel_while_worker_dies(target: Target) -> None:
    """Nobody is left to hear the cancel but the sweeper."""
    kill_pool_process(target)
    target.customer.cancel(target.job_id)


def kill_everything(target: Target) -> None:
    """As a machine that loses its power, and is switched on again."""
    for _ in range(2):  # what was being started meanwhile, too
        send(target.topology.processes(), signal.SIGKILL)
    target.topology.start_again()


def terminate_worker(target: Target) -> None:
    """Within a minute it has saved the job's state, given its lease back, and ended with all."""
    worker, attempt = target.worker(), standing(target.topology, target.job_id).attempt
    ending, held_by = with_descendants(worker), target.topology.holder(target.job_id)
    send([worker], signal.SIGTERM)
    _, alive = psutil.wait_procs(ending, timeout=60)
    assert not alive, "the worker did not end within a minute of SIGTERM"
    owner = target.topology.lease_owner(target.job_id)
    assert owner not in [process.pid for process in ending], "it ended and kept its lease"
    if held_by not in ending:
        return
    (row,) = target.topology.rows(
        "SELECT (SELECT max(step) FROM metrics WHERE job_id = :id AND attempt = :attempt) AS made,"
        " (SELECT max(step) FROM checkpoints WHERE job_id = :id) AS saved",
        id=target.job_id,
        attempt=attempt,
    )
    assert (row.saved or 0) >= (row.made or 0), f"step {row.made} was made, {row.saved} saved"


def suspend_worker(target: Target) -> None:
    """A worker that stands still past its lease, with all it runs, and comes back."""
    _suspend(with_descendants(target.worker()), LEASE_SECONDS + 2)


def suspend_supervisor(target: Target) -> None:
    """Its trainer goes on writing while the lease runs out and another attempt begins."""
    holder = target.topology.holder(target.job_id)
    _suspend([holder] if holder else target.topology.pool()[:1], LEASE_SECONDS + 2)


def hang_trainer(target: Target) -> None:
    """It lives and does nothing: only the second clock sees that."""
    trainers = target.trainers()
    send(trainers, signal.SIGSTOP)
    psutil.wait_procs(trainers, timeout=PROGRESS_SECONDS + 10)
    send(trainers, signal.SIGCONT)


def exhaust_memory(target: Target) -> None:
    """The trainer gets no more memory for a while. It may go on with less, or end the job so."""
    target.excused.add("out_of_memory")
    limited = []
    for trainer in target.trainers():
        with contextlib.suppress(psutil.NoSuchProcess):
            _, hard = trainer.rlimit(resource.RLIMIT_AS)
            trainer.rlimit(resource.RLIMIT_AS, (trainer.memory_info().vms, hard))
            limited.append((trainer, hard))
    time.sleep(target.random.uniform(0.2, 2.0))
    for trainer, hard in limited:
        with contextlib.suppress(psutil.NoSuchProcess):
            trainer.rlimit(resource.RLIMIT_AS, (hard, hard))


HUNGRY = {
    "type": "python",
    "name": "hungry",
    "source": (
        "def grade(sample, item):\n"
        "    held = []\n"
        "    while True:\n"
        "        held.append(bytes(1 << 20))\n"
    ),
}


def exhaust_sandbox(target: Target) -> None:
    """Graders that take memory without end: in the service, and in a job, which they end."""
    flags = target.customer.run_grader(HUNGRY)
    assert flags["python_grader_runtime_error"], f"nothing was wrong with it: {flags}"
    target.customer.create_job(steps=2, grader=HUNGRY, fails_as="grader_failed")


def _suspend(processes: list[psutil.Process], seconds: float) -> None:
    send(processes, signal.SIGSTOP)
    time.sleep(seconds)
    send(processes, signal.SIGCONT)


ANYWHERE: tuple[Fault, ...] = (
    kill_trainer,
    kill_pool_process,
    kill_celery_parent,
    kill_spare,
    kill_service,
    kill_sweeper,
    kill_serving,
    cancel_while_worker_dies,
    kill_everything,
    terminate_worker,
    suspend_worker,
    suspend_supervisor,
    hang_trainer,
    exhaust_memory,
)
