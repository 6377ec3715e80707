"""`python -m benchmarks.trl_side TASK RESULT`: TRL's own trainer on the same task.

How its seconds are told apart: sampling is `_generate` (its decoding of completions included, as
ours decodes while it grades), grading is `_calculate_rewards`, training is what else its
`training_step` does after `_prepare_inputs` (loss and backward) with the clipping and the step of
the optimizer. A step lasts from the end of the last one to its own end.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.side import (
    CLIP_EPS,
    DTYPES,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Laps,
    Measured,
    Step,
    Task,
    in_order_of_steps,
    live_groups,
    peak_bytes,
    read_prompts,
    reward,
)


class TimedTrainer(GRPOTrainer):
    """TRL's trainer, its phases timed from outside."""

    laps: Laps
    group_size: int
    expected_prompts: list[list[int]]
    """Ids of the prompts still to come, in the order of the steps, each once."""

    def start(self, laps: Laps, *, group_size: int, expected_prompts: list[list[int]]) -> None:
        """Time by `laps`; generating raises where the prompts are not those."""
        self.laps = laps
        self.group_size = group_size
        self.expected_prompts = expected_prompts
        self.lengths: list[int] = []
        self.rewards: list[float] = []
        self.num_prompt_tokens = 0

    def _generate(self, prompts: list[Any]) -> Any:
        with self.laps.timing("sampling"):
            output = super()._generate(prompts)
        prompt_ids, completion_ids = output[0], output[1]
        groups = [list(ids) for ids in prompt_ids[:: self.group_size]]
        if groups != self.expected_prompts[: len(groups)]:
            raise SystemExit("TRL's prompts are not those that Honed was given.")
        self.expected_prompts = self.expected_prompts[len(groups) :]
        self.lengths += [len(ids) for ids in completion_ids]
        self.num_prompt_tokens += sum(len(ids) for ids in prompt_ids)
        return output

    def _calculate_rewards(self, *args: Any) -> Any:
        with self.laps.timing("grading"):
            rewards = super()._calculate_rewards(*args)
        self.rewards += rewards[:, 0].tolist()
        return rewards

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        with self.laps.timing("preparing"):
            return super()._prepare_inputs(generation_batch)

    def training_step(self, *args: Any) -> Any:
        with self.laps.timing("training_step"):
            loss = super().training_step(*args)
        self.backward_ended = self.laps.now()
        return loss

    def take(self) -> Step:
        """Return what has been since the last call."""
        seconds = self.laps.take()
        step = Step(
            sampling=seconds["sampling"],
            grading=seconds["grading"],
            training=seconds["training_step"] - seconds["preparing"] + seconds["optimizer"],
            end_to_end=seconds["step"],
            lengths=self.lengths,
            num_groups=len(self.rewards) // self.group_size,
            num_live_groups=live_groups(self.rewards, self.group_size),
            num_prompt_tokens=self.num_prompt_tokens,
        )
        self.lengths, self.rewards, self.num_prompt_tokens = [], [], 0
        return step


class Watch(TrainerCallback):
    """Cuts the run into steps."""

    def __init__(self, laps: Laps) -> None:
        self.laps = laps
        self.trainer: TimedTrainer | None = None
        self.steps: list[Step] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.started = self.laps.now()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        assert self.trainer is not None
        self.laps.add("optimizer", self.laps.now() - self.trainer.backward_ended)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.trainer is not None
        ended = self.laps.now()
        self.laps.add("step", ended - self.started)
        self.started = ended
        self.steps.append(self.trainer.take())


def arguments_of(task: Task, folder: Path) -> GRPOConfig:
    """Return TRL's arguments: what the workload says, and the row's own options."""
    workload = task.workload
    options = dict(task.options)
    split = options.pop("per_device_train_batch_size")
    return GRPOConfig(
        output_dir=str(folder),
        use_cpu=task.device == "cpu",
        max_steps=task.num_steps,
        per_device_train_batch_size=split,
        gradient_accumulation_steps=workload.num_rollouts // split,
        num_generations=workload.group_size,
        max_completion_length=workload.max_completion_tokens,
        temperature=1.0,
        loss_type="dapo",
        epsilon=CLIP_EPS[0],
        epsilon_high=CLIP_EPS[1],
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=MAX_GRAD_NORM,
        seed=workload.seed,
        shuffle_dataset=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **options,
    )


def run(task: Task) -> Measured:
    """Train for as many steps as the task says."""
    workload = task.workload
    torch.set_num_threads(task.threads)
    prompts = in_order_of_steps(read_prompts(task.folder), seed=workload.seed)
    options = dict(task.options)
    dtype = options.pop("base_dtype")
    laps = Laps(task.device)
    watch = Watch(laps)
    task = Task(**vars(task) | {"options": options})
    arguments = arguments_of(task, task.folder / "trl")
    arguments.model_init_kwargs = {"dtype": DTYPES[dtype]}
    trainer = TimedTrainer(
        model=str(task.folder),
        reward_funcs=[lambda completion_ids, **_: [reward(ids) for ids in completion_ids]],
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt["prompt"]} for prompt in prompts]),
        processing_class=AutoTokenizer.from_pretrained(task.folder),
        peft_config=LoraConfig(
            r=workload.lora_rank,
            lora_alpha=2 * workload.lora_rank,
            target_modules=workload.lora_targets,
            lora_dropout=0.0,
            task_type="CAUSAL_LM",
        ),
        callbacks=[watch],
    )
    watch.trainer = trainer
    trainer.start(
        laps,
        group_size=workload.group_size,
        expected_prompts=[prompt["ids"] for prompt in prompts],
    )
    trainer.train()
    return Measured(
        side=task.side,
        steps=watch.steps,
        peak_bytes=peak_bytes(task.device),
        settings={
            "threads": torch.get_num_threads(),
            "base_dtype": dtype,
            "gradient_accumulation_steps": arguments.gradient_accumulation_steps,
            **options,
        },
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    run(Task.read(Path(sys.argv[1]))).write(Path(sys.argv[2]))
