"""Bodies of chat as OpenAI's clients send them: what says nothing is taken, the rest by name."""

from typing import Any

import pytest

from jobs.errors import BadRequest
from jobs.serving import Served
from service.bodies import parsed
from service.routes.chat import _task
from service.wire.chat import NOT_SERVED, ChatRequest

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("key", NOT_SERVED)
def test_a_null_of_what_is_not_served_is_absent(key: str) -> None:
    assert parsed({**ASKED, key: None}, ChatRequest) == parsed(ASKED, ChatRequest)
    with pytest.raises(BadRequest, match=f"'{key}'") as refused:
        parsed({**ASKED, key: "low"}, ChatRequest)
    assert refused.value.param == key


@pytest.mark.parametrize(
    "more",
    [
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
        {"logprobs": False, "top_logprobs": 0},
        {"stream": False, "stream_options": None},
    ],
)
def test_what_asks_for_nothing_needs_nothing(more: dict[str, Any]) -> None:
    served = Served(name="m", base={"name": "m"})
    asked = _task(parsed({**ASKED, **more}, ChatRequest), served)
    assert asked == _task(parsed(ASKED, ChatRequest), served)


def test_a_top_p_of_zero_is_not_the_default() -> None:
    served = Served(name="m", base={"name": "m"})
    assert _task(parsed({**ASKED, "top_p": 0}, ChatRequest), served).sampling.top_p == 0


def test_an_earlier_refusal_is_what_was_said() -> None:
    refusal = {"role": "assistant", "content": None, "refusal": "I cannot."}
    asked = parsed({**ASKED, "messages": [*ASKED["messages"], refusal]}, ChatRequest)
    assert asked.messages[1].for_template() == {"role": "assistant", "content": "I cannot."}
