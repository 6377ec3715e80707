"""`python -m worker.train JOB ATTEMPT`: the trainer process; builds from the spec, then steps.

Everything it decides is stored on the job by the first attempt; everything it learns is in the
newest whole checkpoint. A later attempt takes up both and computes the same bits.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs import artifacts
from jobs.artifacts import ArtifactStore
from jobs.datasets import Row, read_rows
from jobs.db import connect, session_factory
from jobs.errors import LeaseLost
from jobs.log import configure_for_job
from jobs.models import Job
from jobs.settings import Settings, get_settings
from jobs.spec import JobSpec
from jobs.status import Phase
from jobs.store import checkpoints
from jobs.store.attempts import Claim
from worker import plan
from worker.card import Card
from worker.control import Control
from worker.decisions import decide
from worker.download import download
from worker.grpo.errors import Interrupted, InvalidCheckpoint, SamplerDesync
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.hooks import Hooks
from worker.grpo.memory import Memory
from worker.grpo.trainer import Trainer
from worker.grpo.types import Prompt, StepResult
from worker.job_grading import JobGrading
from worker.judging import LimitReached
from worker.load import load_policy
from worker.outcome import as_failure
from worker.prompts import renderer_of
from worker.report import Reporter
from worker.snapshots import adapter_writer, read_history, state_writer
from worker.verdict import RANKS_ONLY, TOO_FEW_PAIRS, verdict

log = logging.getLogger(__name__)


class Run:
    """One attempt inside its own process."""

    def __init__(self, claimed: Claim, settings: Settings, control: Control) -> None:
        self.claimed = claimed
        self.settings = settings
        self.control = control
        self.sessions = session_factory(connect(settings.sqlalchemy_url))
        self.store = ArtifactStore(settings.artifacts_dir)
        with self.sessions() as session:
            job = session.get(Job, claimed.job_id)
        assert job is not None
        self.job = job
        self.spec = JobSpec.model_validate(job.spec)
        self.grading = JobGrading(job, self.spec, self.sessions)
        self.reporter = Reporter(self.sessions, self.store, claimed, self.grading.grader)
        self.warn = partial(self.reporter.note, level="warn")
        self.history: dict[str, Any] = {"curve": [], "lift": None}
        self.last_row: dict[str, Any] = {}
        self.saved_step = 0
        self.started = time.monotonic()
        self.told: dict[str, float] = {}

    def run(self) -> None:
        """Train to the end, or save and stop when asked. Says the outcome."""
        try:
            self.train()
        finally:
            self.reporter.wait()

    def train(self) -> None:
        """Build, take up what there is, and step to the end."""
        self.build()
        base_checksum = self.policy.base_checksum()
        resumed_at = self.resume()
        try:
            for result in self.trainer.steps():
                self.finish_step(result, resumed_at)
        except Interrupted as interrupted:
            self.save(self.trainer.counts.step)
            self.reporter.note_spent(self.grading.spent())
            self.reporter.wait()
            if isinstance(interrupted, LimitReached):
                self.control.outcome("limit_reached", message=str(interrupted))
            else:
                self.control.outcome("stopped")
            return
        finally:
            self.grading.close()
        if self.trainer.is_stopped_early:
            counts = self.trainer.counts
            self.reporter.note(
                f"Stopped early after step {counts.step}: the last "
                f"{counts.num_evaluations_since_best} evaluations were not better than "
                f"{counts.best_evaluation:.2f}."
            )
        if self.policy.base_checksum() != base_checksum:
            raise SamplerDesync("The base model's weights changed during the job.")
        learned = verdict(self.history["lift"])
        if self.job.validation_file and learned == "unknown":
            self.reporter.note(TOO_FEW_PAIRS if self.grading.grading.grades_alone else RANKS_ONLY)
        self.reporter.wait()
        self.control.outcome("succeeded", verdict=learned)

    def build(self) -> None:
        """Model, prompts, grader, engine."""
        folder = download(
            self.job.resolved["model"],
            self.settings,
            progress=partial(self.control.progress, Phase.DOWNLOADING),
            interrupt=self.control.interrupt,
        )
        self.control.progress(Phase.LOADING, 0, 1)
        self.policy = load_policy(folder, self.spec.hyperparameters.lora, seed=self.job.seed)
        self.renderer = renderer_of(self.spec, folder)
        self.sampler = HfSampler(self.policy, eos_ids=self.policy.eos_ids + self.renderer.eos_ids)
        train = self.prompts(self.job.training_file)
        self.resolved = self.job.resolved
        if "machine" not in self.resolved:
            self.resolved = self.decide(train)
        self.sampler.bound(self.resolved["machine"].get("cache_tokens"))
        torch.set_num_threads(self.resolved["machine"]["threads"])
        held_out = self.prompts(self.job.validation_file) if self.job.validation_file else []
        grading = self.grading.start(self.renderer)
        self.config = plan.grpo_config(
            self.resolved,
            seed=self.job.seed,
            component_weights=self.grading.weights(),
        )
        self.trainer = Trainer(
            self.policy,
            self.sampler,
            self.config,
            train,
            held_out[: self.resolved["hyperparameters"]["eval_samples"]],
            grade=grading.submit,
            grade_group=grading.submit_group if grading.is_group_aware else None,
            grades_alone=grading.grades_alone,
            hooks=Hooks(
                interrupt=self.interrupt,
                progress=self.tell,
                note=self.warn,
            ),
        )
        self.trainer.memory.bound(self.resolved["machine"].get("most", {}))
        self.card = Card(
            job_id=self.job.id,
            resolved=self.resolved,
            grader=self.spec.method.reinforcement.grader,
            seed=self.job.seed,
        )

    def decide(self, train: list[Prompt]) -> dict[str, Any]:
        """The numbers that need the model or the machine, stored before the first step."""
        resolved = decide(
            self.job.resolved,
            self.policy,
            Memory(self.sampler, note=self.warn).sampler,
            train,
            seed=self.job.seed,
            device_memory_gb=self.settings.device_memory_gb,
            interrupt=self.control.interrupt,
        )
        self.reporter.resolve(resolved)
        return resolved

    def interrupt(self) -> None:
        """Raise Interrupted when the attempt was asked to stop, or a limit is reached."""
        self.control.interrupt()
        self.reporter.check()
        self.grading.spending.check()

    def tell(self, phase: str, done: int, total: int) -> None:
        """Say where the attempt stands, and from the first completion on when that came."""
        if done and phase in (Phase.SAMPLING, Phase.EVALUATING) and not self.told:
            self.told = {"first_completion_at": time.time()}
        self.control.progress(phase, done, total, **self.told)

    def prompts(self, file_id: str) -> list[Prompt]:
        """The validated file's rows as the model reads them."""
        rows = read_rows(self.store.upload_path(file_id))
        return [
            Prompt(index=index, ids=self.renderer.ids(row.messages, row.tools), payload=row)
            for index, row in enumerate(row for row in rows if isinstance(row, Row))
        ]

    def resume(self) -> int:
        """Take up the newest training state that can be; the step it stands at, or 0.

        Each that cannot be is an event of the job, and so is that there was none to take up.
        """
        with self.sessions() as session:
            candidates = checkpoints.resumable(session, self.job.id)
        for checkpoint in candidates:
            try:
                self.take_up(self.store.folder(checkpoint.folder))
            except InvalidCheckpoint as error:
                self.reporter.note(
                    f"The checkpoint {checkpoint.id} of step {checkpoint.step} cannot be taken up "
                    f"({error}); going back to the one before it.",
                    level="warn",
                )
                continue
            self.saved_step = checkpoint.step
            self.reporter.note(f"Resumed from the checkpoint of step {checkpoint.step}")
            return checkpoint.step
        if candidates:
            self.reporter.note(
                "No checkpoint of the job could be taken up: it starts again from the base model.",
                level="warn",
            )
        return 0

    def take_up(self, folder: Path) -> None:
        """Go on from a checkpoint. Raises InvalidCheckpoint, with nothing changed."""
        fault = artifacts.fault(folder)
        if fault is not None:
            raise InvalidCheckpoint(fault)
        history = read_history(folder / "state")
        self.trainer.restore(folder / "state")
        self.history = history

    def finish_step(self, result: StepResult, resumed_at: int) -> None:
        """Report a finished step; save when it is due."""
        total, step = self.config.total_steps, result.step
        elapsed = time.monotonic() - self.started
        done = step - resumed_at
        left = elapsed / done * (total - step) if done > 0 else None
        self.last_row = self.reporter.step(
            result, total_steps=total, seconds_left=left, spent=self.grading.spent()
        )
        self.grading.check(result, self.history)
        reward = result.metrics.get("reward")
        if step and reward is not None:
            self.history["curve"].append([step, reward])
        if result.evaluation is not None and result.evaluation.lift is not None:
            self.history["lift"] = asdict(result.evaluation.lift)
        due = self.resolved["hyperparameters"]["checkpoint_interval"]
        if step and (step == total or step % due == 0 or result.evaluation is not None):
            self.save(step)

    def save(self, step: int) -> None:
        """Publish the adapter and the training state after `step`, unless they already are."""
        if step <= self.saved_step:
            return
        self.control.progress(Phase.SAVING, step, self.config.total_steps)
        curve = [(step, reward) for step, reward in self.history["curve"]]
        readme = self.card.text(self.trainer.counts.step, curve)
        self.reporter.checkpoint(
            step,
            write_adapter=adapter_writer(self.policy, self.resolved["model"], readme=readme),
            write_state=state_writer(self.trainer, self.history),
            row=self.last_row,
        )
        self.saved_step = step


def attempt(claimed: Claim, settings: Settings, control: Control) -> int:
    """Run one attempt and say its outcome.

    The exit code: 0 once an outcome was said; anything else is a crash for the supervisor to tell.
    """
    try:
        Run(claimed, settings, control).run()
    except Interrupted:
        control.outcome("stopped")  # before the first step there is nothing to save
    except LeaseLost as lost:
        log.warning("stopping: %s", lost)
        return 1
    except Exception as error:
        failure = as_failure(error)
        log.exception("the job ends")
        control.outcome(
            "failed", reason=failure.reason, message=failure.message, param=failure.param
        )
    return 0


def main() -> int:
    claimed = Claim(job_id=sys.argv[1], attempt=int(sys.argv[2]))
    configure_for_job("trainer", claimed.job_id, claimed.attempt)
    return attempt(claimed, get_settings(), Control())


if __name__ == "__main__":
    sys.exit(main())
