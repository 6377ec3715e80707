"""The records that pass between the parts of a training step, and the legend of tensor shapes.

Shape suffixes, everywhere in this package:

    P  prompts of a step            T  completion tokens (padded to the longest)
    G  rollouts of one prompt       L  tokens of a whole sequence
    B  rollouts, B = P * G          V  vocabulary
    H  hidden size

so `rewards_PG` is one reward a rollout, and `logprobs_BT` one log-prob a completion token.
Log-probs say whose they are: `logprobs` (the policy now), `old_logprobs` (the policy that the
update started from), `ref_logprobs` (the base model), `sampler_logprobs` (what drew the token).
"""

from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
Phase = Literal["sampling", "grading", "training", "evaluating"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row of the caller's data, as the model will read it."""

    index: int
    """Position in the list the trainer was given; training visits rows by it."""
    ids: list[int]
    """[L] token ids, template and BOS included: nothing is added to them."""
    payload: Any = None
    """The caller's dataset row; never read here, handed back to `grade`."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion, kept as the ids that were drawn (never decoded and re-encoded)."""

    prompt_index: int
    sample_index: int
    """Position among the siblings of its group, 0 .. G - 1."""
    completion_ids: list[int]
    """[T] ids as drawn; the last one is an EOS id when `finish_reason` is "stop"."""
    sampler_logprobs: list[float]
    """[T] log-prob of each id under the sampler, at the sampling temperature."""
    finish_reason: FinishReason
    loss_mask: list[bool]
    """[T] True where the token is trained: all of them, while a completion is one turn."""


@dataclass(frozen=True, slots=True)
class Graded:
    """What a grader said of one rollout."""

    reward: float | None
    """None when the grader failed: the rollout is kept out of its group's baseline."""
    components: dict[str, float | None]
    """Named parts of the reward, for the metrics `rewards/{name}/mean`."""
    errors: dict[str, int]
    """How many times each kind of failure happened, by kind."""
    seconds: float
    text: str
    """What was graded, decoded by the caller."""


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt's sibling rollouts, which are each other's baseline."""

    prompt: Prompt
    rollouts: list[Rollout]
    graded: list[Graded]
    advantages: list[float]
    """[G] what each rollout's log-probs were weighted with; 0 where the reward is None."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Greedy answers to the held-out prompts, one each."""

    reward: float | None
    """Mean over the rows whose grader gave a number; None when none did."""
    rewards: list[float | None]
    """One a held-out prompt, in their order."""
    rollouts: list[Rollout]
    graded: list[Graded]
    mean_length: float
    """Completion tokens a row."""
    clipped_ratio: float
    """Share of rows that ran into the token limit."""
    seconds: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """Everything one step produced. Step 0 is the evaluation before the first update."""

    step: int
    metrics: dict[str, float | None]
    """Numbers under TRL's names; None where a number does not exist in this step."""
    groups: list[Group]
    evaluation: Evaluation | None
    seconds: dict[Phase, float]
