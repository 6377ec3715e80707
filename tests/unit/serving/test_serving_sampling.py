"""Draws follow each row's own temperature and nucleus."""

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from jobs.serving import Sampling
from worker.serving.sampling import sample

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, 3.0])


def frequencies(asked: Sampling, num_draws: int = 4000) -> torch.Tensor:
    """How often each token comes for uniform numbers evenly over 0..1."""
    uniforms = [(draw + 0.5) / num_draws for draw in range(num_draws)]
    ids, _ = sample(LOGITS.expand(num_draws, -1), [asked] * num_draws, uniforms)
    return torch.bincount(torch.tensor(ids), minlength=len(LOGITS)) / num_draws


def test_temperature_and_top_p_are_transformers_own() -> None:
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8), (2.0, 0.3), (1.3, 0.95)):
        scores = TemperatureLogitsWarper(temperature)(None, LOGITS[None])
        if top_p < 1:
            scores = TopPLogitsWarper(top_p)(None, scores)
        drawn = frequencies(Sampling(temperature=temperature, top_p=top_p))
        torch.testing.assert_close(drawn, scores[0].softmax(dim=-1), atol=5e-4, rtol=0)


def test_rows_of_one_batch_keep_their_own_parameters() -> None:
    asked = [
        Sampling(temperature=0.0),
        Sampling(temperature=1.0, top_p=0.6),
        Sampling(temperature=1.0),
        Sampling(temperature=2.0, top_p=0.6, top_logprobs=1),
    ]
    uniforms = [0.99, 0.99, 0.99, 0.99]
    together, logprobs = sample(LOGITS.expand(4, -1), asked, uniforms)
    alone = [sample(LOGITS[None], [one], [0.99])[0][0] for one in asked]
    assert together == alone
    assert together[0] == 4
    assert logprobs is not None
    torch.testing.assert_close(logprobs[3], LOGITS.log_softmax(dim=-1))


def test_a_nucleus_of_nothing_is_the_likeliest_token() -> None:
    assert frequencies(Sampling(temperature=2.0, top_p=0.0)).tolist() == [0, 0, 0, 0, 1]


def test_no_logprobs_are_computed_that_nobody_asked_for() -> None:
    assert sample(LOGITS[None], [Sampling()], [0.5])[1] is None
