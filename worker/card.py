"""The adapter's model card: what it was trained from, on and towards, and how the reward went.

It holds no time and no path, so that the same training gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobs.graders.endpoint import without_secrets

MAX_CURVE_POINTS = 50


@dataclass(frozen=True)
class Card:
    job_id: str
    resolved: dict[str, Any]
    grader: dict[str, Any]
    seed: int

    def text(self, step: int, curve: list[tuple[int, float]]) -> str:
        """The README.md of an adapter after `step` updates; `curve` is (step, mean reward)."""
        model = self.resolved["model"]
        hyperparameters = json.dumps(self.resolved["hyperparameters"], indent=2, sort_keys=True)
        return "\n".join(
            [
                "---",
                f"base_model: {model['name']}",
                "library_name: peft",
                "pipeline_tag: text-generation",
                "tags: [grpo, lora, honed]",
                "---",
                "",
                f"# LoRA adapter of job {self.job_id} after step {step}",
                "",
                f"- Base model: `{model['name']}`, revision `{model['revision'] or 'local'}`",
                f"- Training file: sha256 `{self.resolved['training']['sha256']}`, "
                f"{self.resolved['training']['num_rows']} rows",
                f"- Seed: {self.seed}",
                "",
                "## Grader",
                "",
                "```json",
                json.dumps(without_secrets(self.grader), indent=2, sort_keys=True),
                "```",
                "",
                "## Hyperparameters",
                "",
                "```json",
                hyperparameters,
                "```",
                "",
                "## Mean training reward",
                "",
                "| step | reward |",
                "|---|---|",
                *(f"| {at} | {reward:.4f} |" for at, reward in thinned(curve)),
                "",
            ]
        )


def thinned(curve: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most MAX_CURVE_POINTS of the points, evenly, the last one always among them."""
    stride = -(-len(curve) // MAX_CURVE_POINTS) or 1
    return list(reversed(curve[::-1][::stride]))
