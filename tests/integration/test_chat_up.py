"""Serving under `honed up`: it starts when it is first asked, and comes back when it dies."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import openai
import psutil
import pytest
from stacks import Stack, stack
from talker import write_talker

HELLO = [{"role": "user", "content": "What is 2 + 3?"}]


@dataclass
class Chat:
    """A stack without a worker, and the client with its defaults."""

    running: Stack
    client: openai.OpenAI
    talker: str

    def ask(self, **asked: Any) -> Any:
        known = {"model": "honed/starter", "messages": HELLO}
        return self.client.chat.completions.create(**known | asked)

    def process(self) -> psutil.Process | None:
        return self.running.child("worker.serve")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    folder = tmp_path_factory.mktemp("up")
    talker = write_talker(folder / "models" / "talker")
    with stack(folder / "data", model_roots=talker.parent) as running:
        key = (running.folder / "key").read_text().strip()
        url = f"http://127.0.0.1:{running.port}/v1"
        with openai.OpenAI(base_url=url, api_key=key) as client:
            yield Chat(running, client, str(talker))
        running.stop()


def test_it_starts_at_first_use(chat: Chat) -> None:
    assert chat.process() is None
    assert chat.client.max_retries == 2
    assert chat.ask().choices
    process = chat.process()
    assert process is not None
    assert process.nice() > 0


def test_killed_while_idle_it_is_missed_and_comes_back(chat: Chat) -> None:
    chat.ask()
    process = chat.process()
    assert process is not None
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert chat.ask().choices
    assert chat.process() is not None


@pytest.mark.slow
def test_killed_in_the_middle_the_stream_says_so(chat: Chat) -> None:
    chat.ask()
    process = chat.process()
    assert process is not None
    stream = iter(chat.ask(model=chat.talker, n=16, stream=True))
    next(stream)
    process.send_signal(signal.SIGKILL)
    with pytest.raises(openai.APIError, match="in the middle of this answer"):
        list(stream)
    assert chat.ask().choices
