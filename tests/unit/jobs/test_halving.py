"""Half of the work at a time, down to one sequence, and the length of one that would fit."""

from typing import Any

import pytest

from jobs.halving import fitting_tokens, halved, sequence_tokens, sizes

GB = 10**9


def resolved(**machine: Any) -> dict[str, Any]:
    """Sequences of 100 tokens, 32 of them a step."""
    return {
        "hyperparameters": {"batch_size": 4, "group_size": 8, "max_completion_tokens": 60},
        "longest_prompt_tokens": 40,
        "memory": {
            "cpu": {
                "weights": 2 * GB,
                "runtime": 1 * GB,
                "training_token_bytes": 40_000_000,
                "cache_token_bytes": 10_000_000,
            }
        },
        "machine": {
            "device": "cpu",
            "micro_batch_tokens": 800,
            "cache_tokens": 4096,
            **machine,
        },
    }


def test_both_sizes_are_halved_from_what_a_step_has_to_do_down_to_one_sequence() -> None:
    job, seen = resolved(), []
    assert sequence_tokens(job) == 100
    assert sizes(job) == {"micro_batch_tokens": 800, "cache_tokens": 3200}
    while (smaller := halved(job)) is not None:
        job = smaller.resolved
        seen.append(tuple(job["machine"]["most"].values()))
        assert f"at most {seen[-1][0]:,} tokens are trained on" in smaller.sentence
    assert seen == [(400, 1600), (200, 800), (100, 400), (100, 200), (100, 100)]
    assert (job["machine"]["micro_batch_tokens"], job["machine"]["cache_tokens"]) == (800, 4096)


@pytest.mark.parametrize("cache_tokens", [None, 100])
def test_a_size_that_is_one_sequence_already_stays(cache_tokens: int | None) -> None:
    smaller = halved(resolved(micro_batch_tokens=50, cache_tokens=cache_tokens))
    if cache_tokens is not None:
        assert smaller is None
    else:  # of a job that an earlier release began, which samples all at once
        assert smaller is not None
        assert smaller.resolved["machine"]["most"] == {
            "micro_batch_tokens": 50,
            "cache_tokens": 1600,
        }


def test_nothing_is_halved_before_the_sizes_are_decided() -> None:
    job = resolved()
    del job["machine"]
    assert halved(job) is None


@pytest.mark.parametrize(
    ("peak_bytes", "num_tokens"),
    [
        (8 * GB, 50),  # as forecast: 3 GB and 50 MB a token; 80 % of it are 6.4 GB
        (16 * GB, 50),  # the forecast was wrong by a factor of 2
        (5 * GB, 12),  # killed before it held all that one sequence takes
        (3 * GB, 0),  # hardly more than the model
    ],
)
def test_the_length_that_fits_is_within_what_was_there(peak_bytes: int, num_tokens: int) -> None:
    assert fitting_tokens(resolved(), peak_bytes=peak_bytes) == num_tokens
