"""Rows that have ended leave a batch, and as few of the others move as can be.

The last rows move into the places of ended ones: those that stay are always the first of a buffer
that is never allocated anew, and only what moves is copied.
"""

from collections.abc import Sequence

from torch import Tensor


def without(ended: list[bool]) -> list[int]:
    """Return an order of the rows that have not ended which moves as few of them as it can."""
    num_live = ended.count(False)
    movers = [row for row in range(num_live, len(ended)) if not ended[row]]
    return [movers.pop() if ended[row] else row for row in range(num_live)]


def compacted(states: Tensor, order: Sequence[int], length: int) -> Tensor:
    """Return the rows in `order` of [layers, 2, rows, heads, tokens, size], moved in place.

    Of the rows that move, only the first `length` tokens do.
    """
    targets = [row for row, source in enumerate(order) if source != row]
    sources = [order[row] for row in targets]
    states[:, :, targets, :, :length] = states[:, :, sources, :, :length]
    return states[:, :, : len(order)]
