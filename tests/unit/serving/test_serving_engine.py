"""The engine against transformers and peft themselves, whoever shares its batches."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from serving_tools import Heard, ask, prompt
from talker import CONTEXT
from transformers import AutoModelForCausalLM

from worker.serving.engine import Engine
from worker.serving.generation import Adapter
from worker.serving.hosted import MAX_ADAPTERS, HostedModel


@pytest.fixture(scope="module")
def reference(talker: Path):
    """The same base in plain transformers."""
    return AutoModelForCausalLM.from_pretrained(talker)


def greedy(reference, ids: list[int], num_tokens: int) -> list[int]:
    """What transformers itself generates."""
    output = reference.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        max_new_tokens=num_tokens,
    )
    return output[0, len(ids) :].tolist()


def spoken(model: HostedModel, ids: list[int]) -> str:
    return model.renderer.tokenizer.decode(ids, skip_special_tokens=True)


def test_greedy_is_transformers_generate_token_for_token(
    engine: Engine, model: HostedModel, reference
) -> None:
    asked = [
        (prompt(seed, length), tokens)
        for seed, length, tokens in [(1, 3, 40), (2, 60, 5), (3, 17, 25), (4, 200, 30), (5, 1, 12)]
    ]
    heard = []
    for ids, tokens in asked:
        heard.append(ask(engine, model, ids, max_tokens=tokens))
        heard[-1].wait_for_text()  # the next one joins while this one is under way
    for one, (ids, tokens) in zip(heard, asked, strict=True):
        assert one.wait().text() == spoken(model, greedy(reference, ids, tokens))
        assert one.ends[0].completion_tokens == tokens
        assert one.ends[0].finish_reason == "length"


# peft 0.21 asks transformers by a name that 5.23 calls deprecated.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_each_row_goes_through_its_own_adapter(
    engine: Engine, model: HostedModel, adapters: list[Adapter], talker: Path, reference
) -> None:
    ids = prompt(7, 12)
    first, second = adapters
    asked: list[Adapter | None] = [first, None, second, first]
    heard = [ask(engine, model, ids, adapter=one, max_tokens=20) for one in asked]
    texts = [one.wait().text() for one in heard]
    assert texts[1] == spoken(model, greedy(reference, ids, 20))
    for adapter, text in ((first, texts[0]), (second, texts[2]), (first, texts[3])):
        base = AutoModelForCausalLM.from_pretrained(talker)
        adapted = PeftModel.from_pretrained(base, adapter.folder)
        assert text == spoken(model, greedy(adapted, ids, 20))
    assert len(set(texts)) == 3


def test_no_adapter_is_ever_merged(
    engine: Engine, model: HostedModel, adapters: list[Adapter], reference
) -> None:
    ask(engine, model, prompt(1, 4), adapter=adapters[0]).wait()
    held = model.base.state_dict()
    for name, weight in reference.state_dict().items():
        key = name if name in held else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(held[key], weight), name


def test_more_adapters_than_are_held_take_turns(
    engine: Engine, talker: Path, adapters: list[Adapter]
) -> None:
    model = HostedModel(talker)
    ids = prompt(3, 8)
    many = [Adapter(f"a{n}", adapters[n % 2].folder) for n in range(MAX_ADAPTERS + 3)]
    texts = [ask(engine, model, ids, adapter=one).wait().text() for one in [*many, many[0]]]
    assert texts[0] == texts[2] == texts[-1] != texts[1]
    assert len(model.model.peft_config) == MAX_ADAPTERS


def test_an_adapter_that_is_gone_fails_its_own_request_only(
    engine: Engine, model: HostedModel, tmp_path: Path
) -> None:
    good = ask(engine, model, prompt(1, 4), max_tokens=64)
    bad = ask(engine, model, prompt(1, 4), adapter=Adapter("gone", tmp_path / "gone"))
    assert "adapter cannot be loaded" in str(bad.wait().error)
    assert good.wait().error is None
    assert ask(engine, model, prompt(1, 4)).wait().error is None


def test_logprobs_are_those_of_a_forward_pass(
    engine: Engine, model: HostedModel, reference
) -> None:
    ids = prompt(9, 10)
    drawn = greedy(reference, ids, 12)
    one = ask(engine, model, ids, max_tokens=12, top_logprobs=3)
    ask(engine, model, prompt(4, 90), max_tokens=12).wait()
    shown = one.wait().logprobs()
    with torch.no_grad():
        logits = reference(torch.tensor([ids + drawn])).logits[0, len(ids) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    assert [entry.logprob for entry in shown] == pytest.approx(
        [float(expected[t, token]) for t, token in enumerate(drawn)], abs=1e-4
    )
    for entry, row in zip(shown, expected, strict=True):
        values = row.topk(3).values.tolist()
        assert [top.logprob for top in entry.top_logprobs] == pytest.approx(values, abs=1e-4)
        assert entry.top_logprobs[0].token == entry.token
    assert (
        bytes(byte for entry in shown for byte in entry.bytes or []).decode(errors="replace")
        == one.text()
    )


def test_logprobs_do_not_depend_on_how_it_is_sampled(
    engine: Engine, model: HostedModel, reference
) -> None:
    ids = prompt(9, 10)
    one = ask(engine, model, ids, max_tokens=1, temperature=1.7, top_p=0.5, seed=3, top_logprobs=0)
    (entry,) = one.wait().logprobs()
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
    assert min(abs(float(value) - entry.logprob) for value in expected) < 1e-4
    assert entry.top_logprobs == []


def test_a_seed_draws_the_same_whoever_else_is_answered(engine: Engine, model: HostedModel) -> None:
    ids = prompt(5, 9)
    hot = {"temperature": 1.0, "seed": 42, "n": 3, "max_tokens": 24}
    alone = ask(engine, model, ids, **hot).wait().texts()
    others = [
        ask(engine, model, prompt(n, 5 * n), temperature=1.0, max_tokens=40) for n in range(1, 4)
    ]
    together = ask(engine, model, ids, **hot).wait().texts()
    for other in others:
        other.wait()
    assert together == alone
    assert len(set(alone)) == 3
    assert ask(engine, model, ids, **hot | {"seed": 43}).wait().texts() != alone
    assert ask(engine, model, ids, **hot | {"seed": None}).wait().texts() != alone


def test_a_short_request_does_not_wait_for_a_long_one(engine: Engine, model: HostedModel) -> None:
    long = ask(engine, model, prompt(1, 4), max_tokens=CONTEXT - 4)
    long.wait_for_text()
    short = ask(engine, model, prompt(2, 30), max_tokens=2).wait()
    assert not long.is_over()
    assert short.ends[0].completion_tokens == 2
    assert long.wait().ends[0].completion_tokens == CONTEXT - 4


def test_a_cancelled_request_is_computed_no_further(engine: Engine, model: HostedModel) -> None:
    endless = ask(engine, model, prompt(1, 4), max_tokens=CONTEXT - 4, n=2)
    endless.wait_for_text()
    engine.cancel(endless.generation)
    ask(engine, model, prompt(2, 4), max_tokens=2).wait()
    num_events = len(endless.events)
    ask(engine, model, prompt(3, 4), max_tokens=50).wait()
    assert len(endless.events) == num_events
    assert not endless.ends


def test_rows_that_find_no_room_wait_and_say_the_same(model: HostedModel, reference) -> None:
    """Room for about two rows: the newest ones give theirs up and go on later."""
    engine = Engine(max_cache_bytes=model.bytes_per_token * 1200)
    try:
        asked = [prompt(seed, 20) for seed in range(4)]
        heard = [ask(engine, model, ids, max_tokens=300) for ids in asked]
        for one, ids in zip(heard, asked, strict=True):
            assert one.wait().text() == spoken(model, greedy(reference, ids, 300))
    finally:
        engine.close()


def test_text_ends_before_a_stop_string(engine: Engine, model: HostedModel, reference) -> None:
    ids = prompt(6, 10)
    text = spoken(model, greedy(reference, ids, 60))
    stop = text[20:24]
    one = ask(engine, model, ids, max_tokens=60, stop=["never said", stop], top_logprobs=0).wait()
    assert one.text() == text[: text.index(stop)]
    assert one.ends[0].finish_reason == "stop"
    assert one.ends[0].completion_tokens < 60
    shown = [bytes(entry.bytes or []) for entry in one.logprobs()]
    assert b"".join(shown).decode(errors="replace").startswith(one.text())
    assert one.text().startswith(b"".join(shown[:-1]).decode(errors="replace"))


def test_too_many_requests_are_refused_not_queued_for_ever(
    engine: Engine, model: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.serving.engine.MAX_WAITING", 0)
    with pytest.raises(Exception, match="wait for an answer already") as caught:
        ask(engine, model, prompt(1, 4))
    assert caught.value.code == "overloaded"


def test_a_pass_that_fails_is_told_and_the_engine_goes_on(
    engine: Engine, model: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such kernel")

    with monkeypatch.context() as broken:
        broken.setattr(HostedModel, "logits", fail)
        failed: Heard = ask(engine, model, prompt(1, 4)).wait()
    assert failed.error is not None
    assert failed.error.code == "internal_error"
    assert ask(engine, model, prompt(1, 4)).wait().error is None


def test_who_still_waits_at_the_end_is_told(model: HostedModel) -> None:
    engine = Engine()
    endless = ask(engine, model, prompt(1, 4), max_tokens=CONTEXT - 4)
    endless.wait_for_text()
    engine.close()
    error = endless.wait().error
    assert error is not None
    assert error.status == 503
