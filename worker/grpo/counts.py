"""Where a run is, in numbers: saved after every checkpoint and taken up by a resume."""

from dataclasses import dataclass, fields, replace
from typing import Any

from worker.grpo.types import Baseline, Evaluation


def known_fields(kind: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return those of the values that a dataclass has a field for; another release had others."""
    if not isinstance(values, dict):
        raise TypeError(f"{values!r} is no object with the fields of {kind.__name__}")
    return {one.name: values[one.name] for one in fields(kind) if one.name in values}


@dataclass(frozen=True, slots=True)
class Counts:
    """Where a run is. With the tensors of `capture` it is all that a resume needs."""

    step: int
    """The last finished step; -1 before the evaluation that is step 0."""
    num_prompts: int = 0
    """Prompt visits so far: the cursor in the shuffled data."""
    num_tokens: int = 0
    num_nonfinite_updates: int = 0
    baseline: Baseline | None = None
    best_evaluation: float | None = None
    """The highest mean reward of an evaluation so far."""
    num_evaluations_since_best: int = 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Counts":
        """Return what `dataclasses.asdict` made of counts, by this release or another one.

        A count that is gone is left out, and one that had not been there yet has its default.
        """
        baseline = values["baseline"]
        known = known_fields(cls, values)
        return cls(**known | {"baseline": baseline and Baseline(**baseline)})

    def trained(
        self, step: int, *, num_prompts: int, num_tokens: int, num_nonfinite: int
    ) -> "Counts":
        """Return the counts after a step that drew so much and skipped so many updates."""
        return replace(
            self,
            step=step,
            num_prompts=self.num_prompts + num_prompts,
            num_tokens=self.num_tokens + num_tokens,
            num_nonfinite_updates=self.num_nonfinite_updates + num_nonfinite,
        )

    def evaluated(self, evaluation: Evaluation) -> "Counts":
        """Return the counts after an evaluation; the first one is the baseline.

        Rewards that cannot be compared are neither a baseline nor better or worse than one.
        """
        counts = self
        if not evaluation.is_comparable:
            return counts
        if counts.baseline is None:
            baseline = Baseline(evaluation.rewards, evaluation.passes)
            counts = replace(counts, baseline=baseline)
        if evaluation.reward is None:
            return counts  # Every grader failed: it is neither better nor worse.
        if counts.best_evaluation is None or evaluation.reward > counts.best_evaluation:
            return replace(counts, best_evaluation=evaluation.reward, num_evaluations_since_best=0)
        return replace(counts, num_evaluations_since_best=counts.num_evaluations_since_best + 1)
