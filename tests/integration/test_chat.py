"""Chat through the unmodified `openai` package: real processes of the service and of serving."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from chat_server import Server, chat_server
from talker import CONTEXT
from waiting import wait_for

from jobs import serving

HELLO = [{"role": "user", "content": "What is 2 + 3?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    with chat_server(tmp_path_factory.mktemp("chat"), migrated_database) as server:
        yield server


def ask(server: Server, **asked: Any) -> Any:
    """A greedy answer of the talker, unless it says otherwise."""
    known = {"model": server.talker, "messages": HELLO, "temperature": 0, "max_tokens": 8}
    return server.client.chat.completions.create(**known | asked)


def test_an_answer_of_a_base_model(server: Server) -> None:
    answer = ask(server, model="honed/starter", max_tokens=None)
    (choice,) = answer.choices
    assert answer.object == "chat.completion"
    assert answer.model == "honed/starter"
    assert choice.message.role == "assistant"
    assert choice.message.content.isdecimal()
    assert choice.finish_reason == "stop"
    # The digits, and the end of the text.
    assert answer.usage.completion_tokens == len(choice.message.content) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert choice.logprobs is None
    assert answer.id.startswith("chatcmpl-")


def test_parts_of_text_are_one_text(server: Server) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?"}]
    in_parts = ask(server, messages=[{"role": "user", "content": parts}])
    assert in_parts.choices[0].message.content == ask(server).choices[0].message.content


def test_an_answer_can_be_sent_back(server: Server) -> None:
    """As the client's own object, and as users dump it: with every key that OpenAI has."""
    said = ask(server).choices[0].message
    dumped = said.model_dump()
    assert {"annotations", "audio", "function_call"} <= set(dumped)
    asked = [[*HELLO, one, *HELLO] for one in (said, dumped)]
    answers = [ask(server, messages=messages, tool_choice="none") for messages in asked]
    assert answers[0].choices[0].message == answers[1].choices[0].message
    assert answers[0].usage.prompt_tokens > 2 * ask(server).usage.prompt_tokens


def test_a_finished_job_and_its_checkpoints_differ(server: Server) -> None:
    names = [server.talker, server.tuned, server.checkpoint, server.paused]
    texts = [ask(server, model=name).choices[0].message.content for name in names]
    base, tuned, checkpoint, paused = texts
    assert len({base, tuned, checkpoint}) == 3
    assert paused == tuned  # both jobs' second checkpoint has the same weights
    as_in_addresses = server.tuned.replace("/", "%2F")
    assert ask(server, model=as_in_addresses).choices[0].message.content == tuned


def test_a_stream_is_the_same_answer_in_chunks(server: Server) -> None:
    whole = ask(server, n=2, seed=5, temperature=1, max_tokens=20, logprobs=True, top_logprobs=2)
    stream = list(
        ask(
            server,
            n=2,
            seed=5,
            temperature=1,
            max_tokens=20,
            logprobs=True,
            top_logprobs=2,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in stream}) == 1
    assert {chunk.object for chunk in stream} == {"chat.completion.chunk"}
    assert stream[-1].choices == []
    assert stream[-1].usage == whole.usage
    for expected in whole.choices:
        chosen = [c for chunk in stream for c in chunk.choices if c.index == expected.index]
        assert chosen[0].delta.role == "assistant"
        text = "".join(choice.delta.content or "" for choice in chosen)
        assert text == expected.message.content
        assert chosen[-1].finish_reason == expected.finish_reason == "length"
        shown = [entry for choice in chosen for entry in (choice.logprobs or _none()).content or []]
        assert shown == expected.logprobs.content
        assert len(shown) == 20
        assert all(len(entry.top_logprobs) == 2 for entry in shown)
    assert len(stream) > 20  # it came in pieces


def _none() -> Any:
    return openai.types.chat.chat_completion_chunk.ChoiceLogprobs(content=None)


def test_a_stream_without_usage_ends_with_done(server: Server) -> None:
    body = {"model": server.talker, "messages": HELLO, "max_tokens": 2, "stream": True}
    raw = httpx2.post(
        f"{server.url}/v1/chat/completions",
        json=body,
        headers={"Authorization": f"Bearer {server.client.api_key}"},
    )
    assert raw.headers["content-type"].startswith("text/event-stream")
    events = raw.text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-1]]
    assert all("usage" not in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert {key for delta in deltas[1:-1] for key in delta} == {"content"}
    assert deltas[-1] == {}


def test_stop_seed_and_n(server: Server) -> None:
    text = ask(server, max_tokens=30).choices[0].message.content
    stop = text[9:12]
    cut = ask(server, max_tokens=30, stop=stop)
    assert cut.choices[0].message.content == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage.completion_tokens < 30
    hot = {"temperature": 1.3, "top_p": 0.9, "seed": 3, "n": 4}
    first, again = ask(server, **hot), ask(server, **hot)
    assert [one.message for one in first.choices] == [one.message for one in again.choices]
    assert [one.index for one in first.choices] == [0, 1, 2, 3]
    assert first.usage.completion_tokens == 4 * 8
    assert first.system_fingerprint == again.system_fingerprint


def test_many_at_once_through_the_async_client(server: Server) -> None:
    names = [server.talker, server.tuned, server.checkpoint] * 4
    expected = {name: ask(server, model=name).choices[0].message.content for name in set(names)}

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=str(server.client.base_url), api_key=server.client.api_key
        ) as client:

            async def one(name: str) -> str:
                stream = await client.chat.completions.create(
                    model=name, messages=HELLO, temperature=0, max_tokens=8, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            return await asyncio.gather(*map(one, names))

    assert asyncio.run(all_of_them()) == [expected[name] for name in names]


def test_what_a_project_does_not_have_does_not_exist(server: Server) -> None:
    unfinished = server.paused.partition(":ckpt-step-")[0]
    wrong_step = server.tuned + ":ckpt-step-7"
    for name in ("gpt-4o", "honed/other", "ft:x", unfinished, wrong_step):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(server, model=name)
        assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        server.stranger.chat.completions.create(model=server.tuned, messages=HELLO)


def test_another_project_asks_what_was_shared_with_it(server: Server) -> None:
    with pytest.raises(openai.NotFoundError):
        server.stranger.chat.completions.create(model=server.checkpoint, messages=HELLO)
    permissions = server.client.fine_tuning.checkpoints.permissions
    (granted,) = permissions.create(server.checkpoint, project_ids=[server.other_project])
    asked = {"model": server.checkpoint, "messages": HELLO, "temperature": 0, "max_tokens": 8}
    theirs = server.stranger.chat.completions.create(**asked)
    assert theirs.choices[0].message == ask(server, **asked).choices[0].message
    permissions.delete(granted.id, fine_tuned_model_checkpoint=server.checkpoint)
    with pytest.raises(openai.NotFoundError):
        server.stranger.chat.completions.create(**asked)


def test_a_base_that_is_not_on_the_machine(server: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="honed models pull some-org/some-model"):
        ask(server, model="some-org/some-model")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 3}, "temperature", "less than or equal to 2"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "up to 4 strings"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "as it was trained"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "as it was trained"),
    ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
     "tool_choice", "cannot be forced"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "cannot call tools"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "no thinking switch"),
    ({"max_tokens": CONTEXT}, "messages", "context is 512 tokens"),
    ({"temperature": "0.5"}, "temperature", "valid number"),
    ({"stream": 1}, "stream", "valid boolean"),
    ({"n": True}, "n", "valid integer"),
    ({"extra_body": {"top_k": 5}}, "top_k", "Unknown parameter"),
    ({"messages": [{"role": "user"}]}, "messages.0", "needs content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}]},
     "messages.0.content", "type 'image_url' cannot be read: the models here read text"),
    ({"tools": [{"function": {"name": "f"}}]}, "tools.0.type", "missing"),
    ({"extra_body": {"functions": []}}, "functions", "Unknown parameter"),
    ({"extra_body": {"verbosity": "low"}}, "verbosity", "Unknown parameter"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "needs 'stream'"),
    ({"top_logprobs": 2}, "top_logprobs", "needs 'logprobs'"),
    ({"max_completion_tokens": 3}, "max_completion_tokens", "another word for"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "param", "words"), REFUSED, ids=[one[1] for one in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(
    server: Server, asked: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        ask(server, **asked)
    assert caught.value.param == param


def test_a_strict_schema_is_taken_though_answers_are_not_held_to_it(server: Server) -> None:
    form = {"name": "x", "schema": {"type": "object"}, "strict": True}
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert ask(server, response_format={"type": "json_schema", "json_schema": form}).choices
    tools = [{"type": "function", "function": function}]
    assert ask(server, tools=tools, tool_choice="none", temperature=0).choices


def test_a_schema_is_put_before_the_model(server: Server) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    plain = ask(server).usage.prompt_tokens
    for wanted in (
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    ):
        assert ask(server, response_format=wanted).usage.prompt_tokens > plain
    assert ask(server, response_format={"type": "text"}).usage.prompt_tokens == plain


def test_who_leaves_a_stream_ends_its_generation(server: Server) -> None:
    wait_for(lambda: server.num_open() == 0, seconds=20, what="quiet")
    stream = ask(server, max_tokens=None, n=8, stream=True)
    next(iter(stream))
    assert server.num_open() == 1
    stream.close()
    wait_for(lambda: server.num_open() == 0, seconds=20, what="the end of the generation")


def test_who_leaves_before_the_answer_ends_its_generation(server: Server) -> None:
    wait_for(lambda: server.num_open() == 0, seconds=20, what="quiet")
    with pytest.raises(openai.APITimeoutError):
        server.client.with_options(timeout=0.3).chat.completions.create(
            model=server.talker, messages=HELLO, n=64
        )
    wait_for(lambda: server.num_open() == 0, seconds=20, what="the end of the generation")


def test_its_log_names_the_request_that_it_answers(server: Server) -> None:
    answer = ask(server, model=server.tuned)
    lines = server.serving_log.read_text().splitlines()
    (asked,) = [line for line in lines if answer._request_id in line]
    assert f"{server.tuned} is asked with" in asked
    of_requests = [line for line in lines if "is asked with" in line or " loaded " in line]
    assert all(re.match(r"\S+ \S+Z INFO req_[0-9a-f]{24} worker\.", line) for line in of_requests)


def test_only_the_service_is_answered(server: Server) -> None:
    where = serving.address(server.settings)
    assert where is not None
    assert httpx2.post(f"{where.url}/chat", json={}).status_code == 401
    assert (server.settings.run_dir / "serving.json").stat().st_mode & 0o777 == 0o600
