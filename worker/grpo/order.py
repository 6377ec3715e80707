"""Which prompts a step sees, and which random stream it draws from: functions of saved counts.

Nothing here has state. A resumed run visits the same prompts with the same randomness because it
asks the same questions.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch

from worker.grpo.types import Prompt


def stream_seed(seed: int, *name: str | int) -> int:
    """Return the seed of the stream called `name` in the run of `seed`; streams are unrelated."""
    digest = hashlib.sha256(repr((seed, *name)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits.


def take(prompts: Sequence[Prompt], *, start: int, count: int, seed: int) -> list[Prompt]:
    """Return visits `start` .. `start + count - 1` of a walk that shuffles anew every epoch."""
    visits = []
    for visit in range(start, start + count):
        epoch, position = divmod(visit, len(prompts))
        visits.append(prompts[_shuffled(len(prompts), seed, epoch)[position]])
    return visits


@lru_cache(maxsize=2)  # A batch touches two epochs at most while it is smaller than one.
def _shuffled(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(stream_seed(seed, "order", epoch))
    return torch.randperm(size, generator=generator).tolist()
