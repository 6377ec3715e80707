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

from dataclasses import dataclass, field
from typing import Any, Literal

from worker.grpo.lift import Lift

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
    num_reasoning_tokens: int = 0
    """Of the completion's tokens, those before the answer."""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    """The calls of tools in it, which are not in `text`."""
    part_seconds: dict[str, float] = field(default_factory=dict)
    """How long each component took, by its name."""
    part_errors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What was wrong with each component, by its name; nothing of those that gave a number."""
    counts: dict[str, float] = field(default_factory=dict)
    """Numbers that a step adds up over its rollouts, under the metric's name."""
    part_counts: dict[str, dict[str, float]] = field(default_factory=dict)
    """What each component put into `counts`, by its name."""

    @property
    def is_failed(self) -> bool:
        """Whether its grader failed, also where a number took the place of its reward."""
        return bool(self.errors) or self.reward is None


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt's sibling rollouts, which are each other's baseline."""

    prompt: Prompt
    rollouts: list[Rollout]
    graded: list[Graded]
    advantages: list[float]
    """[G] what each rollout's log-probs were weighted with; 0 where the reward is None."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the untrained policy got on the held-out prompts; later evaluations pair with it."""

    rewards: list[float | None]
    passes: list[float | None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Answers to the held-out prompts: a greedy one to each, and several to the first of them."""

    reward: float | None
    """Mean over the greedy answers whose grader gave a number; None when none did."""
    rewards: list[float | None]
    """One a held-out prompt, in their order: its greedy answer's."""
    sampled_rewards: list[list[float | None]]
    """Of the prompts that were answered `eval_pass_k` times, the rewards of those answers."""
    passes: list[float | None]
    """The same prompts' pass@k; None where a grader failed."""
    lift: Lift | None
    """What the greedy rewards gained since the evaluation before the first update."""
    pass_lift: Lift | None
    """What pass@k gained since then."""
    rollouts: list[Rollout]
    """The greedy answers."""
    graded: list[Graded]
    sampled: list[list[Graded]]
    """The grades behind `sampled_rewards`."""
    mean_length: float
    """Completion tokens a row."""
    clipped_ratio: float
    """Share of rows that ran into the token limit."""
    seconds: float
    is_comparable: bool = True
    """Whether a reward means the same at every evaluation; a place among siblings does not."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Everything one step produced. Step 0 is the evaluation before the first update.

    `reward`, `rewards/...`, `completions/...` and the objective's numbers are over `groups`;
    failures, latencies, judges' counts and `groups/...` are over `drawn`.
    """

    step: int
    metrics: dict[str, float | None]
    """Numbers under TRL's names; None where a number does not exist in this step."""
    groups: list[Group]
    """Those that were trained on, with their advantages."""
    drawn: list[Group]
    """All that were sampled and graded, those that dynamic sampling replaced included."""
    evaluation: Evaluation | None
    seconds: dict[Phase, float]
