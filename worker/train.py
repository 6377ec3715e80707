"""`python -m worker.train JOB ATTEMPT`: the trainer process; builds from the spec, then steps.

Everything it decides is stored on the job by the first attempt; everything it learns is in the
newest whole checkpoint. A later attempt takes up both and computes the same bits.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jobs import artifacts
from jobs.artifacts import ArtifactStore
from jobs.datasets import Row, read_rows
from jobs.db import connect, session_factory
from jobs.errors import JobFailure, LeaseLost
from jobs.hyperparameters import Lora
from jobs.models import Job
from jobs.settings import Settings, get_settings
from jobs.spec import JobSpec
from jobs.status import Phase, Reason
from jobs.store import checkpoints
from jobs.store.attempts import Claim
from worker import plan
from worker.card import Card
from worker.control import Control
from worker.download import download
from worker.grading import Grading
from worker.grpo.errors import (
    GrpoError,
    Interrupted,
    InvalidConfig,
    NonFiniteGradients,
    SamplerDesync,
    UnsupportedModel,
)
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.hooks import Hooks
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Prompt, StepResult
from worker.prompts import PromptRenderer
from worker.report import Reporter
from worker.verdict import verdict

log = logging.getLogger(__name__)

HISTORY = "history.json"

REASONS: dict[type[GrpoError], Reason] = {
    SamplerDesync: Reason.SAMPLER_DESYNC,
    NonFiniteGradients: Reason.NON_FINITE_GRADIENTS,
    # A number that only became impossible when the first attempt resolved `auto`.
    InvalidConfig: Reason.INVALID_HYPERPARAMETERS,
    UnsupportedModel: Reason.MODEL_NOT_AVAILABLE,
}


class Run:
    """One attempt inside its own process."""

    def __init__(self, claimed: Claim, settings: Settings, control: Control) -> None:
        self.claimed = claimed
        self.settings = settings
        self.control = control
        self.sessions = session_factory(connect(settings.sqlalchemy_url))
        self.store = ArtifactStore(settings.artifacts_dir)
        self.reporter = Reporter(self.sessions, self.store, claimed)
        with self.sessions() as session:
            job = session.get(Job, claimed.job_id)
        assert job is not None
        self.job = job
        self.spec = JobSpec.model_validate(job.spec)
        self.history: dict[str, Any] = {"curve": [], "baseline": None, "latest": None}
        self.last_row: dict[str, Any] = {}
        self.saved_step = 0
        self.started = time.monotonic()

    def run(self) -> None:
        """Train to the end, or save and stop when asked. Says the outcome."""
        self.build()
        base_checksum = self.policy.base_checksum()
        resumed_at = self.resume()
        try:
            for result in self.trainer.steps():
                self.finish_step(result, resumed_at)
        except Interrupted:
            self.save(self.trainer.counts.step)
            self.control.outcome("stopped")
            return
        finally:
            self.grading.close()
        if self.policy.base_checksum() != base_checksum:
            raise SamplerDesync("The base model's weights changed during the job.")
        self.control.outcome(
            "succeeded",
            verdict=verdict(self.history["baseline"], self.history["latest"]),
        )

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
        self.renderer = PromptRenderer(folder)
        self.sampler = HfSampler(self.policy, eos_ids=self.policy.eos_ids)
        train = self.prompts(self.job.training_file)
        self.resolved = self.job.resolved
        if "machine" not in self.resolved:
            self.resolved = self.decide(train)
        torch.set_num_threads(self.resolved["machine"]["threads"])
        held_out = self.prompts(self.job.validation_file) if self.job.validation_file else []
        self.grading = Grading(self.spec.grader(), self.renderer)
        self.config = plan.grpo_config(
            self.resolved,
            seed=self.job.seed,
            component_weights=self.spec.component_weights(),
        )
        self.trainer = Trainer(
            self.policy,
            self.sampler,
            self.config,
            train,
            held_out[: self.resolved["hyperparameters"]["eval_samples"]],
            grade=self.grading.submit,
            hooks=Hooks(interrupt=self.control.interrupt, progress=self.tell),
        )
        self.card = Card(
            job_id=self.job.id,
            resolved=self.resolved,
            grader=self.spec.method.reinforcement.grader,
            seed=self.job.seed,
        )

    def tell(self, phase: str, done: int, total: int) -> None:
        self.control.progress(phase, done, total)

    def prompts(self, file_id: str) -> list[Prompt]:
        """The validated file's rows as the model reads them."""
        rows = read_rows(self.store.upload_path(file_id))
        return [
            Prompt(index=index, ids=self.renderer.ids(row.messages), payload=row)
            for index, row in enumerate(row for row in rows if isinstance(row, Row))
        ]

    def decide(self, train: list[Prompt]) -> dict[str, Any]:
        """The numbers that need the model or the machine, stored before the first step."""
        threads = plan.probe_threads(self.policy.base.config.get_text_config().hidden_size)
        asked = dict(self.job.resolved["hyperparameters"])
        if asked["max_completion_tokens"] == "auto":
            room = self.job.resolved["context_length"] - self.job.resolved["longest_prompt_tokens"]
            asked["max_completion_tokens"] = plan.probe_completion_tokens(
                self.sampler,
                train,
                seed=self.job.seed,
                room=room,
                interrupt=self.control.interrupt,
            )
        resolved = {
            **self.job.resolved,
            "hyperparameters": asked,
            "machine": {
                "device": str(self.policy.device),
                "threads": threads,
                "micro_batch_tokens": plan.micro_batch_tokens(self.policy),
            },
        }
        self.reporter.resolve(resolved)
        return resolved

    def resume(self) -> int:
        """Take up the newest whole training state; the step it stands at, or 0."""
        with self.sessions() as session:
            candidates = checkpoints.resumable(session, self.job.id)
        for checkpoint in candidates:
            folder = self.store.folder(checkpoint.folder)
            if not artifacts.is_whole(folder):
                self.reporter.note(
                    f"The checkpoint of step {checkpoint.step} is damaged or gone; "
                    "going back to the one before it.",
                    level="warn",
                )
                continue
            self.trainer.restore(folder / "state")
            self.history = json.loads((folder / "state" / HISTORY).read_text())
            self.saved_step = checkpoint.step
            self.reporter.note(f"Resumed from the checkpoint of step {checkpoint.step}")
            return checkpoint.step
        return 0

    def finish_step(self, result: StepResult, resumed_at: int) -> None:
        """Report a finished step; save when it is due."""
        total, step = self.config.total_steps, result.step
        elapsed = time.monotonic() - self.started
        done = step - resumed_at
        left = elapsed / done * (total - step) if done > 0 else None
        self.last_row = self.reporter.step(result, total_steps=total, seconds_left=left)
        self.grading.check_budget(result.groups)
        reward = result.metrics.get("reward")
        if step and reward is not None:
            self.history["curve"].append([step, reward])
        if result.evaluation is not None:
            if self.history["baseline"] is None:
                self.history["baseline"] = result.evaluation.rewards
            self.history["latest"] = result.evaluation.rewards
        due = self.resolved["hyperparameters"]["checkpoint_interval"]
        if step and (step == total or step % due == 0):
            self.save(step)

    def save(self, step: int) -> None:
        """Publish the adapter and the training state after `step`, unless they already are."""
        if step <= self.saved_step:
            return
        self.control.progress(Phase.SAVING, step, self.config.total_steps)
        self.reporter.checkpoint(
            step, write_adapter=self.write_adapter, write_state=self.write_state, row=self.last_row
        )
        self.saved_step = step

    def write_adapter(self, folder: Path) -> None:
        model = self.resolved["model"]
        self.policy.save_adapter(folder, base_name=model["name"], revision=model["revision"])
        curve = [(step, reward) for step, reward in self.history["curve"]]
        (folder / "README.md").write_text(self.card.text(self.trainer.counts.step, curve))

    def write_state(self, folder: Path) -> None:
        self.trainer.save(folder)
        (folder / HISTORY).write_text(json.dumps(self.history))


def load_policy(folder: Path, lora: Lora, *, seed: int) -> Policy:
    """The base with a fresh adapter, on the device there is. Raises JobFailure, GrpoError."""
    try:
        return Policy.load(
            folder,
            lora=LoraSettings(rank=lora.rank, alpha=lora.alpha, target_modules=lora.target_modules),
            seed=seed,
            device="cuda" if torch.cuda.is_available() else "cpu",
        )
    except UnsupportedModel:
        raise
    except ValueError as error:  # PEFT's word for layers that are not there
        raise JobFailure(
            Reason.INVALID_HYPERPARAMETERS,
            f"The adapter cannot be put on this model: {error}",
            param="method.reinforcement.hyperparameters.lora.target_modules",
        ) from error


def main() -> int:
    """Exit code 0 once an outcome was said; anything else is a crash for the supervisor to tell."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    control = Control()
    claimed = Claim(job_id=sys.argv[1], attempt=int(sys.argv[2]))
    try:
        Run(claimed, get_settings(), control).run()
    except Interrupted:
        control.outcome("stopped")  # before the first step there is nothing to save
    except LeaseLost as lost:
        log.warning("stopping: %s", lost)
        return 1
    except JobFailure as failure:
        _failed(control, failure.reason, failure.message, failure.param)
    except torch.cuda.OutOfMemoryError as error:
        _failed(
            control,
            Reason.OUT_OF_MEMORY,
            f"The device ran out of memory: {error}. Lower group_size, batch_size or "
            "max_completion_tokens.",
        )
    except GrpoError as error:
        log.exception("the engine ended the job")
        _failed(control, REASONS.get(type(error), Reason.INTERNAL_ERROR), str(error))
    return 0


def _failed(control: Control, reason: Reason, message: str, param: str | None = None) -> None:
    control.outcome("failed", reason=reason, message=message, param=param)


if __name__ == "__main__":
    sys.exit(main())
