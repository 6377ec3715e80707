"""`python -m worker.proof`: the reward is a constant in the loss, shown on two gradients.

One step's gradient is computed twice on the same rollouts: once graded by a reward function, once
by a table of the numbers that function gave. A table has no derivative, and neither was asked for:

    grad J = sum_i A_i * grad log pi(o_i),     A_i = (r_i - mean(r)) / std(r)

(DeepSeekMath, https://arxiv.org/abs/2402.03300, appendix A.1.6.) Only the values of r enter it.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from jobs.datasets import Row, read_rows
from jobs.graders import parse_grader
from jobs.graders.sandbox.pools import on_behalf_of
from worker.grading import Grading
from worker.grpo.aggregate import with_advantages
from worker.grpo.checksum import checksum
from worker.grpo.collect import Collector
from worker.grpo.config import GrpoConfig
from worker.grpo.grading import GradeFn
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.hooks import Hooks, Stopwatch
from worker.grpo.policy import Policy
from worker.grpo.types import Graded, Group, Prompt, Rollout
from worker.grpo.update import Updater
from worker.prompts import PromptRenderer

Table = dict[tuple[int, tuple[int, ...]], float | None]


class Proof:
    """A base model, its first step's rollouts, and the gradient that a way of grading gives."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self.renderer = PromptRenderer(folder)
        self.policy = Policy.load(folder, seed=0)
        self.sampler = HfSampler(self.policy, eos_ids=self.policy.eos_ids + self.renderer.eos_ids)
        self.prompts = [
            Prompt(index, self.renderer.ids(row.messages), row) for index, row in enumerate(rows)
        ]
        self.config = GrpoConfig(
            total_steps=1,
            batch_size=len(rows),
            max_completion_tokens=64,
            learning_rate=1e-3,
        )

    def gradient(self, grade: GradeFn) -> tuple[str, list[Group]]:
        """The sha of the step's gradient under this way of grading, and the graded groups."""
        collector = Collector(self.sampler, self.config, self.prompts, grade, Hooks())
        collected = collector.collect(step=1, cursor=0, stopwatch=Stopwatch())
        groups = with_advantages(collected.groups, self.config)
        updater = Updater(self.policy, self.config)
        work = updater.prepare(groups)
        constants = updater.constants(work, interrupt=lambda: None)
        updater.backward(work, constants, interrupt=lambda: None, progress=lambda: None)
        gradients = {
            name: parameter.grad
            for name, parameter in self.policy.trainable.items()
            if parameter.grad is not None
        }
        return checksum(gradients), groups


def table_of(groups: list[Group]) -> Table:
    """The reward of each rollout, by prompt and drawn ids."""
    return {
        (rollout.prompt_index, tuple(rollout.completion_ids)): graded.reward
        for group in groups
        for rollout, graded in zip(group.rollouts, group.graded, strict=True)
    }


def look_up(table: Table) -> GradeFn:
    """Grading without a function: the number that stands in the table."""

    def grade(prompt: Prompt, rollout: Rollout) -> Future[Graded]:
        reward = table[prompt.index, tuple(rollout.completion_ids)]
        done: Future[Graded] = Future()
        done.set_result(Graded(reward=reward, components={}, errors={}, seconds=0.0, text=""))
        return done

    return grade


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="JSONL with `messages`")
    parser.add_argument("--grader", required=True, help="a grader's JSON")
    arguments = parser.parse_args()

    rows = [row for row in read_rows(arguments.rows) if isinstance(row, Row)]
    proof = Proof(arguments.base, rows)
    with on_behalf_of("proof"):
        grading = Grading(parse_grader(json.loads(arguments.grader)), proof.renderer)
    by_function, groups = proof.gradient(grading.submit)
    grading.close()
    by_table, same = proof.gradient(look_up(table_of(groups)))
    shown: list[dict[str, Any]] = [
        {
            "prompt": row.messages[-1]["content"],
            "completions": [graded.text for graded in group.graded],
            "rewards": [graded.reward for graded in group.graded],
            "advantages": group.advantages,
        }
        for row, group in zip(rows, sorted(groups, key=lambda g: g.prompt.index), strict=True)
    ]
    assert [g.advantages for g in groups] == [g.advantages for g in same]
    json.dump({"function": by_function, "table": by_table, "groups": shown}, sys.stdout)


if __name__ == "__main__":
    main()
