"""The soft punishment of answers that come near the token limit.

    penalty(y) = 0                                        |y| <= L_max - L_buffer
                 ((L_max - L_buffer) - |y|) / L_buffer    beyond it, -1 at L_max

DAPO, equation 13, https://arxiv.org/abs/2503.14476.
"""

from dataclasses import replace

from worker.grpo.config import GrpoConfig
from worker.grpo.types import Graded, Rollout

COMPONENT = "overlong_penalty"


def overlong_penalty(num_tokens: int, *, max_tokens: int, buffer_tokens: int) -> float:
    """Return 0 down to -1 for a completion of `num_tokens`; 0 without a buffer."""
    if not buffer_tokens:
        return 0.0
    beyond = num_tokens - (max_tokens - buffer_tokens)
    return -min(max(beyond / buffer_tokens, 0.0), 1.0)


def punished(graded: Graded, rollout: Rollout, config: GrpoConfig) -> Graded:
    """Return a grade with the penalty in its reward and beside its components."""
    if not config.overlong_buffer_tokens:
        return graded
    penalty = overlong_penalty(
        len(rollout.completion_ids),
        max_tokens=config.max_completion_tokens,
        buffer_tokens=config.overlong_buffer_tokens,
    )
    reward = None if graded.reward is None else graded.reward + penalty
    return replace(graded, reward=reward, components={**graded.components, COMPONENT: penalty})
