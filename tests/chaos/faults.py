"""Faults of processes: killed, ended, suspended, out of memory. Each returns when it is over."""

import contextlib
import resource
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

import psutil
from moments import standing
from topology import LEASE_SECONDS, PROGRESS_SECONDS, Topology


@dataclass
class Target:
    """What a fault strikes at."""

    topology: Topology
    job_id: str
    random: Random
    cancel: Callable[[str], None]
    """Cancels a job as its owner does, until that is acknowledged."""
    excused: set[str] = field(default_factory=set)
    """Of a job: what may follow from what was done to it, and else would be a violation."""

    def trainers(self) -> list[psutil.Process]:
        """Those that run; one that is being started is waited for."""
        deadline = time.monotonic() + START_SECONDS
        while not (found := self.topology.processes("worker.train")):
            if time.monotonic() > deadline or standing(self.topology, self.job_id).is_over:
                break
        return found


START_SECONDS = 10.0

Fault = Callable[[Target], None]


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def kill_trainer(target: Target) -> None:
    send(target.trainers(), signal.SIGKILL)


def kill_pool_process(target: Target) -> None:
    holder = target.topology.holder(target.job_id)
    send([holder] if holder else target.topology.pool()[:1], signal.SIGKILL)


def kill_celery_parent(target: Target) -> None:
    send(target.topology.workers()[:1], signal.SIGKILL)


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
    target.cancel(target.job_id)


def kill_everything(target: Target) -> None:
    """As a machine that loses its power, and is switched on again."""
    for _ in range(2):  # what was being started meanwhile, too
        send(target.topology.processes(), signal.SIGKILL)
    target.topology.start_again()


def terminate_worker(target: Target) -> None:
    """It has ended with all it runs when this is over."""
    (worker, *_) = target.topology.workers()
    ending = [worker, *worker.children(recursive=True)]
    send([worker], signal.SIGTERM)
    _, alive = psutil.wait_procs(ending, timeout=60)
    assert not alive, "the worker did not end within a minute of SIGTERM"


def suspend_worker(target: Target) -> None:
    """A worker that stands still past its lease, with all it runs, and comes back."""
    (worker, *_) = target.topology.workers()
    holder = target.topology.holder(target.job_id)
    if holder is not None:
        worker = holder.parent() or worker
    _suspend([worker, *worker.children(recursive=True)], LEASE_SECONDS + 2)


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
    cancel_while_worker_dies,
    kill_everything,
    terminate_worker,
    suspend_worker,
    suspend_supervisor,
    hang_trainer,
    exhaust_memory,
)
