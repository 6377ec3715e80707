"""Chat against its document: requests made up from it, answered by real models."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from chat_server import Server, chat_server
from fuzzed import CHECKS, made_up
from hypothesis import given
from openai.types.chat import ChatCompletion
from schemathesis import GenerationMode

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"

# What these models, or any here, cannot do.
REFUSED = (
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "store",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Server]:
    with chat_server(tmp_path_factory.mktemp("fuzzed"), migrated_database) as server:
        yield server


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_answer_is_outside_the_document(server: Server, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    models = ["honed/starter", server.talker, server.tuned, server.checkpoint, server.paused]
    turn, answers = count(), Counter[str]()

    @given(case=document[CHAT]["post"].as_strategy(generation_mode=mode))
    @made_up(80)
    def check(case: Any) -> None:
        if isinstance(case.body, dict):
            number = next(turn)
            aim(case.body, models[number % len(models)], is_plain=number % 2 == 0)
        response = case.call(headers={"Authorization": f"Bearer {server.client.api_key}"})
        case.validate_response(response, checks=CHECKS)
        if response.status_code == 200:
            answers["answered"] += 1
            if response.headers["content-type"] == ["application/json"]:
                ChatCompletion.model_validate_json(response.content, strict=True)
        else:
            answers[response.text] += 1

    check()
    assert answers["answered"] >= 10 or not mode.is_positive, answers


def aim(body: dict[str, Any], model: str, *, is_plain: bool) -> None:
    """Ask a model that is there for little; a plain request for nothing that it has not."""
    if isinstance(body.get("model"), str):
        body["model"] = model
    for name in {"max_tokens", "max_completion_tokens"} & set(body):
        if isinstance(body[name], int):
            body[name] = 3
    body.setdefault("max_tokens", 3)
    if not is_plain:
        return
    for name in REFUSED:
        body.pop(name, None)
    for message in body.get("messages") or []:
        if isinstance(message, dict) and not message.get("content"):
            message["content"] = "a"
    if isinstance(body.get("stop"), list):
        body["stop"] = [stop for stop in body["stop"] if stop][:4]
    for name, needed in (("top_logprobs", "logprobs"), ("stream_options", "stream")):
        if not body.get(needed):
            body.pop(name, None)
