"""Chat while the serving process is away: waited for, and then said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import peer_server
import pytest
from envelope import error_of
from fastapi.testclient import TestClient
from peer_server import Asked, Peer, Says
from pydantic import BaseModel
from servers import free_port
from waiting import wait_for

from jobs.serving import (
    Address,
    Delta,
    Failed,
    Finished,
    Started,
    wanted_path,
    write_address,
)
from jobs.store.projects import IssuedKey
from service import serving
from service.app import create_app
from service.settings import ServiceSettings

CHAT = "/v1/chat/completions"
HELLO = {"model": "honed/starter", "messages": [{"role": "user", "content": "Hello"}]}
ANSWER = (
    Started(prompt_tokens=3, fingerprint="fp"),
    Delta(index=0, content="Hello"),
    Finished(index=0, finish_reason="stop", completion_tokens=1, reasoning_tokens=0),
)


def lines(*records: Any) -> Says:
    return Says(raw="".join(record.model_dump_json() + "\n" for record in records).encode())


def asking(client: TestClient) -> Callable[[], httpx2.Response]:
    """Ask now; what is returned waits for the answer."""
    answers: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: answers.append(client.post(CHAT, json=HELLO)))
    thread.start()

    def answer() -> httpx2.Response:
        thread.join(60)
        return answers[0]

    return answer


@pytest.fixture
def peer() -> Iterator[Peer]:
    with peer_server.serving(lambda asked: lines(*ANSWER)) as peer:
        yield peer


def test_the_first_request_asks_for_it_and_waits_for_its_start(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    answer = asking(client)
    wait_for(wanted_path(settings).exists, seconds=20, what="the wish")
    # Where an earlier process listened, and where the new one does.
    write_address(settings, Address(f"http://127.0.0.1:{free_port()}", "old"))
    write_address(settings, Address(peer.url, "secret"))
    assert answer().json()["choices"][0]["message"]["content"] == "Hello"
    (asked,) = peer.asked
    assert asked.headers["authorization"] == "Bearer secret"


def test_a_process_that_has_just_started_anew_is_asked_again(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    def refuse_once(asked: Asked) -> Says:
        return Says({}, status=401) if len(peer.asked) == 1 else lines(*ANSWER)

    peer.behaviour = refuse_once
    write_address(settings, Address(peer.url, "secret"))
    assert client.post(CHAT, json=HELLO).status_code == 200


@pytest.mark.parametrize("elsewhere", ["", f"http://127.0.0.1:{free_port()}"])
def test_what_does_not_come_is_a_503_that_clients_wait_for(
    settings: ServiceSettings, key: IssuedKey, elsewhere: str
) -> None:
    changed = {"serving_start_seconds": 0.5, "serving_url": elsewhere}
    app = create_app(settings.model_copy(update=changed))
    with TestClient(app, headers={"Authorization": f"Bearer {key.secret}"}) as client:
        response = client.post(CHAT, json=HELLO)
        error = error_of(response, 503)
    assert error["code"] == "serving_unavailable"
    assert "does not answer" in error["message"]
    assert int(response.headers["retry-after"]) > 0


def test_others_are_answered_while_one_waits(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    answer = asking(client)
    wait_for(wanted_path(settings).exists, seconds=20, what="the wish")
    assert client.get("/v1/models").status_code == 200
    write_address(settings, Address(peer.url, "secret"))
    assert answer().status_code == 200


def test_nothing_that_has_begun_is_asked_twice(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    peer.behaviour = lambda asked: Says(hangs_up=True)
    write_address(settings, Address(peer.url, "secret"))
    error_of(client.post(CHAT, json=HELLO), 503)
    assert len(peer.asked) == 1


def test_lines_that_only_say_it_lives_are_no_part_of_the_answer(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    raw = lines(*ANSWER).raw
    assert raw is not None
    peer.behaviour = lambda asked: Says(raw=b"\n\n" + raw.replace(b"\n", b"\n\n"))
    write_address(settings, Address(peer.url, "secret"))
    answer = client.post(CHAT, json=HELLO)
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    assert peer.asked[0].headers["x-request-id"] == answer.headers["x-request-id"]


def test_every_character_of_a_text_arrives(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    """Some end a line to Python and none to JSON, where they stand as they are."""
    text = "a\u2028b\u2029c\x85d\x0be\x1cf\r\ng"
    peer.behaviour = lambda asked: lines(ANSWER[0], Delta(index=0, content=text), ANSWER[2])
    write_address(settings, Address(peer.url, "secret"))
    answer = client.post(CHAT, json=HELLO)
    assert answer.json()["choices"][0]["message"]["content"] == text


def test_what_breaks_an_answer_off_is_said(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    error = {"message": "The engine stopped.", "type": "", "code": "model_broken"}
    failed = Failed(status=503, error=error, retry_after_seconds=7)
    peer.behaviour = lambda asked: lines(*ANSWER[:2], failed)
    write_address(settings, Address(peer.url, "secret"))
    response = client.post(CHAT, json=HELLO)
    assert error_of(response, 503)["code"] == "model_broken"
    assert response.headers["retry-after"] == "7"


def test_an_adapter_whose_bytes_are_gone_is_not_asked_for_again(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    error = {"message": "Its bytes are gone.", "type": "", "code": "artifact_missing"}
    peer.behaviour = lambda asked: lines(Failed(status=410, error=error))
    write_address(settings, Address(peer.url, "secret"))
    assert error_of(client.post(CHAT, json=HELLO), 410)["code"] == "artifact_missing"


class Sum(BaseModel):
    answer: int


def test_the_clients_parse_gets_its_object(
    client: TestClient, key: IssuedKey, settings: ServiceSettings, peer: Peer
) -> None:
    """Where the model keeps to the schema, which the client sends as strict."""
    said = lines(ANSWER[0], Delta(index=0, content='{"answer": 5}'), ANSWER[2])
    peer.behaviour = lambda asked: said
    write_address(settings, Address(peer.url, "secret"))
    asked = {"model": "honed/starter", "messages": HELLO["messages"], "response_format": Sum}
    completions = openai.OpenAI(
        base_url="http://testserver/v1", api_key=key.secret, http_client=client
    ).chat.completions
    assert completions.parse(**asked).choices[0].message.parsed == Sum(answer=5)
    with completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == Sum(answer=5)
    for one in peer.asked:
        (system, _) = one.body["messages"]
        assert '"answer":{"title":"Answer","type":"integer"}' in system["content"]


def test_a_process_that_hangs_is_not_waited_for_forever(
    client: TestClient,
    settings: ServiceSettings,
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving, "SILENCE_SECONDS", 0.3)
    # A byte of the first line, then silence for longer than that.
    peer.behaviour = lambda asked: Says(raw=lines(*ANSWER).raw, drips_seconds=2.0)
    write_address(settings, Address(peer.url, "secret"))
    error = error_of(client.post(CHAT, json=HELLO), 503)
    assert "it hangs" in error["message"]


def test_a_refusal_after_the_first_line_keeps_its_wait(
    client: TestClient, settings: ServiceSettings, peer: Peer
) -> None:
    error = {"message": "There is no room for it.", "type": "", "code": "model_does_not_fit"}
    peer.behaviour = lambda asked: lines(Failed(status=503, error=error, retry_after_seconds=30))
    write_address(settings, Address(peer.url, "secret"))
    response = client.post(CHAT, json=HELLO)
    assert error_of(response, 503)["code"] == "model_does_not_fit"
    assert response.headers["retry-after"] == "30"


def test_a_project_has_so_many_requests_under_way_and_each_gives_its_place_back(
    settings: ServiceSettings, key: IssuedKey, peer: Peer
) -> None:
    may_answer = threading.Event()

    def hold(asked: Asked) -> Says:
        assert may_answer.wait(60)
        return lines(*ANSWER)

    peer.behaviour = hold
    write_address(settings, Address(peer.url, "secret"))
    app = create_app(settings.model_copy(update={"max_project_chats": 1}))
    with TestClient(app, headers={"Authorization": f"Bearer {key.secret}"}) as client:
        answer = asking(client)
        wait_for(lambda: peer.asked, seconds=30, what="the first request")
        refused = client.post(CHAT, json=HELLO)
        error = error_of(refused, 429)
        assert (error["code"], refused.headers["retry-after"]) == ("rate_limit_exceeded", "2")
        assert "1 chat requests of this project" in error["message"]
        may_answer.set()
        assert answer().status_code == 200
        for is_stream in (True, False, True, False):
            assert client.post(CHAT, json={**HELLO, "stream": is_stream}).status_code == 200
