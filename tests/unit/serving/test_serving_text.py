"""Text that is given out piece by piece is the text of the whole, cut where it must be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_call_texts import CALLS, NO_CALLS

from jobs.registry import STARTER_FOLDER
from worker.prompts import PromptRenderer
from worker.serving.answer import Answer
from worker.serving.calls import Calls
from worker.serving.text import Detokenizer, Markers, Reasoning
from worker.tool_calls import split_calls

RENDERER = PromptRenderer(Path(STARTER_FOLDER))
TOKENIZER = RENDERER.tokenizer


def pieces(text: str, cuts: list[int]) -> list[str]:
    """The text in parts that end at `cuts`."""
    ends = sorted({cut % (len(text) + 1) for cut in cuts} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(3, 597), max_size=40))
def test_pieces_are_the_whole_whatever_bytes_come(ids: list[int]) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    out = "".join(detokenizer.push(token) for token in ids) + detokenizer.flush()
    assert out == TOKENIZER.decode(ids, skip_special_tokens=True)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20))
def test_no_half_character_is_given_out(text: str) -> None:
    detokenizer = Detokenizer(TOKENIZER)
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    whole = TOKENIZER.decode(ids, skip_special_tokens=True)
    given_out = ""
    for token in ids:
        given_out += detokenizer.push(token)
        assert whole.startswith(given_out)
    assert given_out + detokenizer.flush() == whole


@given(
    st.text("abc ", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(0, 30), max_size=6),
)
def test_the_stop_string_that_is_complete_first_cuts(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    markers = Markers(stops)
    out, found = "", None
    for piece in pieces(text, cuts):
        part, found = markers.push(piece)
        out += part
        if found is not None:
            break
    if found is None:
        out += markers.flush()
    places = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert out == (text[: min(places)[1]] if places else text)
    assert (found is not None) == bool(places)


THOUGHTS = [
    "<think>\nfirst this\nthen that\n</think>\n\nThe answer.",
    "  <think></think>Yes.",
    "<think>never closed \n",
    "no thought at all",
    "<thin ice",
    "  blank before",
    "<think>a</think>b</think>c",
]


@pytest.mark.parametrize("text", THOUGHTS)
@pytest.mark.parametrize("is_open", [False, True])
@given(cuts=st.lists(st.integers(0, 60), max_size=8))
def test_reasoning_is_set_apart_as_graders_see_it(
    text: str, is_open: bool, cuts: list[int]
) -> None:
    """The same answer that the trainer's graders were given for it."""
    prefix = "assistant <think>" if is_open else "assistant"
    if is_open:
        text = text.replace("<think>", "")
    expected = RENDERER.completion(TOKENIZER.encode(prefix), TOKENIZER.encode(text), is_cut=False)
    splitter = Reasoning(is_open=is_open)
    parts = [*(splitter.push(piece) for piece in pieces(text, cuts)), splitter.flush()]
    assert "".join(answer for _, answer in parts) == expected.output_text
    assert "".join(thought for thought, _ in parts) == (expected.reasoning_text or "")


def answered(
    text: str,
    *,
    stop: list[str] | None = None,
    tools: Sequence[Any] = (),
    renderer: PromptRenderer = RENDERER,
) -> Answer:
    """An answer that got this text token by token; its deltas' content is kept as `said`."""
    answer = Answer(
        renderer,
        TOKENIZER.encode("assistant"),
        index=0,
        stop=stop or [],
        tools=tools,
        top_logprobs=None,
    )
    deltas = []
    for token in renderer.tokenizer.encode(text):
        deltas.append(answer.push(token, None))
        if answer.is_stopped:
            break
    deltas.append(answer.end())
    answer.said = "".join(delta.content for delta in deltas if delta)  # type: ignore[attr-defined]
    return answer


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
XML = (
    "<tool_call>\n<function=find>\n<parameter=city>\nNew York\n</parameter>\n"
    "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
)
FIND = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {"type": "object", "properties": {"days": {"type": "integer"}}},
    },
}
QUOTED = '{"name": "say", "arguments": {"text": "<tool_call> and </tool_call> are tags"}}'
ANSWERS = [
    *(answer for answer, _ in CALLS),
    *NO_CALLS,
    "a <tool_",
    "  { and more",
    XML,
    f"I shall add. {CALL}\n{CALL}",
    f"Before\n\n{CALL}{XML} after.",
    f"<tool_call>{QUOTED}</tool_call> Done.",
    '[TOOL_CALLS]add[ARGS]{"a": 1}[TOOL_CALLS]add[CALL_ID]x9[ARGS]{"a": 2}',
]


@pytest.mark.parametrize("text", ANSWERS)
def test_calls_are_those_that_training_reads(text: str) -> None:
    rest, calls = split_calls(text, [FIND])
    answer = answered(text, tools=[FIND])
    assert answer.said == rest
    assert [call.model_dump() for call in answer.tool_calls] == [one["function"] for one in calls]


@given(text=st.sampled_from(ANSWERS), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_the_pieces_that_calls_come_in_decide_nothing(text: str, cuts: list[int]) -> None:
    calls = Calls([FIND], [])
    said = "".join(calls.push(piece) for piece in pieces(text, cuts))
    rest, found = calls.finish()
    expected, read = split_calls(text, [FIND])
    assert said + rest == expected
    assert [call.model_dump() for call in found] == [one["function"] for one in read]


def test_text_before_a_call_is_given_out_at_once() -> None:
    calls = Calls([FIND], [])
    assert [calls.push(piece) for piece in ("I", " add", ". ", "<to", "p>", CALL, "x")] == [
        "I",
        " add",
        ".",
        "",
        " <top>",
        "",
        "",
    ]


def test_calls_are_read_from_special_tokens_too() -> None:
    """Which are no text by themselves, of a call or not."""
    renderer = PromptRenderer(Path(STARTER_FOLDER))
    marks = ["[TOOL_CALLS]", "[ARGS]", "<|other|>"]
    renderer.tokenizer.add_special_tokens({"additional_special_tokens": marks})
    for text, said, names in (
        ('Sure.<|other|>[TOOL_CALLS]add[ARGS]{"a": 1}', "Sure.", ["add"]),
        ("Sure.[TOOL_CALLS]add[ARGS] no", "Sure.add no", []),
        ("Sure.[ARGS]<|other|> no", "Sure. no", []),
    ):
        answer = answered(text, tools=[FIND], renderer=renderer)
        assert (answer.said, [call.name for call in answer.tool_calls]) == (said, names)


def test_without_tools_nothing_is_taken_out() -> None:
    assert answered(CALL).said == CALL


def test_stop_strings_end_the_answer_not_the_thought() -> None:
    answer = answered("<think>a; b</think>c; d", stop=[";"])
    assert answer.said == "c"
    assert answer.is_stopped
    # All of the thought and its markers, one token a letter or so.
    thought = len(TOKENIZER.encode("<think>a; b</think>"))
    assert answer.num_reasoning_tokens == pytest.approx(thought, abs=1)
