"""What the sampler draws: the right distribution, the same again, no further than asked."""

from collections import Counter
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.grpo.tiny import EOS, VOCAB, prompts, tiny_policy
from worker.grpo.cache import cache_bytes
from worker.grpo.compaction import without
from worker.grpo.errors import Interrupted, NonFiniteLogprobs
from worker.grpo.hf_sampler import HfSampler, draw
from worker.grpo.policy import Policy
from worker.grpo.shared_cache import MIN_SHARED_TOKENS
from worker.grpo.types import Prompt, Rollout

ENDS = range(2, 14)  # One token in ten ends a completion: rows leave the batch all the time.


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_policy(noise=0.05)


def sampled(policy: Policy, asked: list[Prompt], **changes: Any) -> list[list[Rollout]]:
    max_cache_bytes = changes.pop("max_cache_bytes", None)
    eos_ids = changes.pop("eos_ids", ENDS)
    sampler = HfSampler(policy, eos_ids=eos_ids, max_cache_bytes=max_cache_bytes)
    arguments = {"num_samples": 4, "max_tokens": 8, "temperature": 1.0, "seed": 3}
    arguments |= {"on_finished": lambda rollout: None, "interrupt": lambda: None}
    return sampler.sample(asked, **arguments | changes)


def test_the_same_seed_draws_the_same_and_another_does_not(policy: Policy) -> None:
    asked = prompts(3)
    first = sampled(policy, asked)
    assert sampled(policy, asked) == first
    assert sampled(policy, asked, seed=4) != first


@pytest.mark.parametrize("max_rows", [1, 8, 13])
def test_draws_do_not_depend_on_how_many_rows_run_at_once(policy: Policy, max_rows: int) -> None:
    row_bytes = (8 + 8) * cache_bytes(policy.base.config, policy.dtype)
    asked = prompts(5)
    whole = sampled(policy, asked)
    parts = sampled(policy, asked, max_cache_bytes=max_rows * row_bytes)
    for rollout, other in zip(chain(*whole), chain(*parts), strict=True):
        assert rollout.completion_ids == other.completion_ids
        assert rollout.sampler_logprobs == pytest.approx(other.sampler_logprobs, abs=1e-5)


def test_draws_do_not_depend_on_which_rows_have_ended(policy: Policy) -> None:
    """A row's tokens are the same whether its siblings leave early or none ever does."""
    asked = prompts(3)
    endless = chain(*sampled(policy, asked, eos_ids=[]))
    for rollout, other in zip(chain(*sampled(policy, asked)), endless, strict=True):
        length = len(rollout.completion_ids)
        assert rollout.completion_ids == other.completion_ids[:length]


@pytest.mark.parametrize("length", [5, MIN_SHARED_TOKENS])
def test_tokens_follow_the_models_distribution(policy: Policy, length: int) -> None:
    """Chi-square over each prompt's 4,096 first tokens, and over those after its likeliest one.

    The second draw comes after rows have been dropped and moved: a mix-up of rows and states, or
    of groups and their prompts, would show here, where equal log-probs alone could miss it.
    """
    asked = prompts(2, length=length)
    for prompt, rows in zip(
        asked, sampled(policy, asked, num_samples=4096, max_tokens=2), strict=True
    ):
        firsts = [rollout.completion_ids[0] for rollout in rows]
        assert_follows(firsts, probabilities(policy, prompt.ids))
        [(commonest, _)] = Counter(token for token in firsts if token not in ENDS).most_common(1)
        seconds = [r.completion_ids[1] for r in rows if r.completion_ids[0] == commonest]
        assert len(seconds) > 200
        assert_follows(seconds, probabilities(policy, [*prompt.ids, commonest]))


def probabilities(policy: Policy, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)


def assert_follows(tokens: list[int], expected: Tensor) -> None:
    """Pearson's test at about five standard deviations; rare tokens share a bin."""
    observed = torch.bincount(torch.tensor(tokens), minlength=VOCAB).double()
    expected = expected * len(tokens)
    rare = expected < 5
    bins_observed = torch.cat([observed[~rare], observed[rare].sum()[None]])
    bins_expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    chi_square = ((bins_observed - bins_expected).square() / bins_expected).sum()
    degrees = len(bins_observed) - 1
    assert degrees > 10
    assert float(chi_square) < degrees + 5 * (2 * degrees) ** 0.5


def test_a_completion_ends_at_its_first_eos_of_any_kind(policy: Policy) -> None:
    rows = list(chain(*sampled(policy, prompts(6))))
    for rollout in rows:
        stops = [i for i, token in enumerate(rollout.completion_ids) if token in ENDS]
        if rollout.finish_reason == "stop":
            assert stops == [len(rollout.completion_ids) - 1]
        else:
            assert stops == []
            assert len(rollout.completion_ids) == 8
        assert len(rollout.sampler_logprobs) == len(rollout.completion_ids)
        assert rollout.loss_mask == [True] * len(rollout.completion_ids)
    assert {rollout.finish_reason for rollout in rows} == {"stop", "length"}


def test_an_eos_at_the_limit_is_a_stop(policy: Policy) -> None:
    rows = chain(*sampled(policy, prompts(4), max_tokens=1, eos_ids=range(VOCAB)))
    assert {rollout.finish_reason for rollout in rows} == {"stop"}
    rows = chain(*sampled(policy, prompts(4), max_tokens=1, eos_ids=[]))
    assert {rollout.finish_reason for rollout in rows} == {"length"}


def test_greedy_takes_the_likeliest_token(policy: Policy) -> None:
    for prompt, [rollout] in zip(
        prompts(4), sampled(policy, prompts(4), num_samples=1, temperature=0.0), strict=True
    ):
        ids = list(prompt.ids)
        for token, logprob in zip(rollout.completion_ids, rollout.sampler_logprobs, strict=True):
            expected = probabilities(policy, ids)
            assert token == int(expected.argmax())
            assert logprob == pytest.approx(float(expected.max().log()), abs=1e-5)
            ids.append(token)


def test_every_rollout_is_announced_once_as_it_ends(policy: Policy) -> None:
    announced: list[Rollout] = []
    rows = sampled(policy, prompts(3), on_finished=announced.append)
    assert len(announced) == 12
    assert {id(rollout) for rollout in announced} == {id(r) for row in rows for r in row}
    lengths = [len(rollout.completion_ids) for rollout in announced]
    assert lengths == sorted(lengths)
    assert [[(r.prompt_index, r.sample_index) for r in row] for row in rows] == [
        [(i, j) for j in range(4)] for i in range(3)
    ]


def test_interrupt_is_asked_at_every_token(policy: Policy) -> None:
    asked = []

    def interrupt() -> None:
        asked.append(None)
        if len(asked) == 4:
            raise Interrupted

    with pytest.raises(Interrupted):
        sampled(policy, prompts(2), interrupt=interrupt, eos_ids=[EOS])
    assert len(asked) == 4


def test_a_model_without_probabilities_is_an_error() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.base.lm_head.weight[5] = torch.nan
    with pytest.raises(NonFiniteLogprobs):
        sampled(policy, prompts(2))


def test_the_edges_of_the_uniform_number_stay_within_the_vocabulary() -> None:
    logits_BV = torch.tensor([[-1e9, 0.0, 0.0, -1e9]] * 3)
    uniforms_B = torch.tensor([0.0, 0.75, 1 - 2**-53], dtype=torch.float64)
    ids_B, logprobs_B = draw(logits_BV, uniforms_B, 1.0)
    assert ids_B.tolist() == [1, 2, 2]
    assert logprobs_B.tolist() == pytest.approx([-0.6931472] * 3)


def test_rows_are_drawn_a_chunk_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit as all at once, and never with more logits than a chunk has."""
    generator = torch.Generator().manual_seed(0)
    logits_BV = torch.randn(11, VOCAB, generator=generator) * 4
    uniforms_B = torch.rand(11, dtype=torch.float64, generator=generator)
    whole = draw(logits_BV, uniforms_B, 0.8)
    sizes: list[int] = []
    softmax = Tensor.log_softmax

    def seen(logits: Tensor, dim: int) -> Tensor:
        sizes.append(len(logits))
        return softmax(logits, dim)

    monkeypatch.setattr("worker.grpo.hf_sampler.CHUNK_LOGITS", 4 * VOCAB)
    monkeypatch.setattr(Tensor, "log_softmax", seen)
    for ours, theirs in zip(draw(logits_BV, uniforms_B, 0.8), whole, strict=True):
        assert ours.equal(theirs)
    assert sizes == [4, 4, 3]


def test_the_last_rows_fill_the_gaps() -> None:
    assert without([False, True, False, True, False]) == [0, 4, 2]
    assert without([False, False, True]) == [0, 1]
    assert without([True, False]) == [1]
