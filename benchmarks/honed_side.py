"""`python -m benchmarks.honed_side TASK RESULT`: the engine alone, timed by its own stopwatch."""

import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from transformers import AutoTokenizer

from benchmarks.side import (
    CLIP_EPS,
    DTYPES,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Laps,
    Measured,
    Step,
    Task,
    peak_bytes,
    read_prompts,
    reward,
)
from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Graded, Prompt, Rollout, StepResult


def config_of(task: Task) -> GrpoConfig:
    """Return the engine's configuration of a task."""
    workload = task.workload
    return GrpoConfig(
        total_steps=task.num_steps,
        batch_size=workload.num_prompts,
        group_size=workload.group_size,
        seed=workload.seed,
        max_completion_tokens=workload.max_completion_tokens,
        loss_type="dapo",
        clip_eps_low=CLIP_EPS[0],
        clip_eps_high=CLIP_EPS[1],
        learning_rate=LEARNING_RATE,
        max_grad_norm=MAX_GRAD_NORM,
        micro_batch_tokens=task.options["micro_batch_tokens"],
    )


def run(task: Task) -> Measured:
    """Train for as many steps as the task says."""
    workload = task.workload
    torch.set_num_threads(task.threads)
    policy = Policy.load(
        task.folder,
        lora=LoraSettings(
            rank=workload.lora_rank,
            alpha=2 * workload.lora_rank,
            target_modules=workload.lora_targets,
        ),
        seed=workload.seed,
        device=task.device,
        dtype=DTYPES[workload.dtype],
    )
    tokenizer = AutoTokenizer.from_pretrained(task.folder)
    config = config_of(task)
    # As in a job: a completion is decoded and graded in a thread, while others are being drawn.
    executor = ThreadPoolExecutor(1)

    def graded(rollout: Rollout) -> Graded:
        text = str(tokenizer.decode(rollout.completion_ids, skip_special_tokens=True))
        return Graded(reward(rollout.completion_ids), {}, {}, 0.0, text)

    def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        return executor.submit(graded, rollout)

    trainer = Trainer(
        policy,
        HfSampler(policy, eos_ids=policy.eos_ids),
        config,
        [Prompt(index=i, ids=prompt["ids"]) for i, prompt in enumerate(read_prompts(task.folder))],
        [],
        grade=grade,
    )
    laps = Laps(task.device)
    steps, started = [], laps.now()
    for result in trainer.steps():
        ended = laps.now()
        steps.append(step_of(result, ended - started))
        started = ended
    executor.shutdown()
    return Measured(
        side=task.side,
        steps=steps,
        peak_bytes=peak_bytes(task.device),
        settings={"threads": torch.get_num_threads(), **task.options},
    )


def step_of(result: StepResult, seconds: float) -> Step:
    """Return what a step took and drew; `seconds` is the whole of it."""
    rollouts = [rollout for group in result.groups for rollout in group.rollouts]
    return Step(
        sampling=result.seconds["sampling"],
        grading=result.seconds["grading"],
        training=result.seconds["training"],
        end_to_end=seconds,
        lengths=[len(rollout.completion_ids) for rollout in rollouts],
        num_groups=len(result.groups),
        num_live_groups=sum(any(group.advantages) for group in result.groups),
        num_prompt_tokens=sum(
            len(group.prompt.ids) * len(group.rollouts) for group in result.groups
        ),
    )


if __name__ == "__main__":
    run(Task.read(Path(sys.argv[1]))).write(Path(sys.argv[2]))
