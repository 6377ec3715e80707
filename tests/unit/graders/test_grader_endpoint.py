"""endpoint against a server that plays the user's own, well and badly."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from peer_server import Behaviour, Peer, Says, serving
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobs.graders import GraderInvalid, Means, Sample, parse_grader
from jobs.graders.calling import Pace
from jobs.graders.endpoint import without_secrets
from jobs.graders.sandbox.pools import on_behalf_of
from jobs.graders.settings import GraderSettings
from jobs.graders.signing import project_key, shown_secret

SAMPLE = Sample(output_text='{"a": 1}', output_json={"a": 1}, num_tokens=5)
ITEM = {"answer": 1, "nested": {"b": [2.0]}}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Open = Callable[..., tuple[Peer, Any]]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a server that behaves so, and a grader of it."""
    opened: list[Any] = []

    def open_endpoint(behaviour: Behaviour, **fields: Any) -> tuple[Peer, Any]:
        context = serving(behaviour)
        peer = context.__enter__()
        monkeypatch.setenv("HONED_OUTBOUND_ALLOW", f"127.0.0.1:{peer.port}")
        means = Means.of(GraderSettings())
        opened.append((context, means))
        definition = {"type": "endpoint", "url": f"{peer.url}/grade", **fields}
        return peer, parse_grader(definition, means)

    yield open_endpoint
    for context, means in opened:
        means.close()
        context.__exit__(None, None, None)


def test_the_endpoint_gets_sample_item_and_trace_and_gives_the_reward(endpoint: Open) -> None:
    peer, grader = endpoint(lambda asked: Says({"score": 8.5}), headers={"X-Key": "k"})
    assert grader.grade(SAMPLE, ITEM).reward == 8.5
    (asked,) = peer.asked
    assert asked.path == "/grade"
    assert asked.headers["x-key"] == "k"
    assert asked.headers["content-type"] == "application/json"
    body = asked.body
    assert set(body) == {"sample", "item", "trace_id"}
    assert body["item"] == ITEM
    assert body["trace_id"].startswith("trace_")
    assert body["sample"]["output_text"] == '{"a": 1}'
    assert body["sample"]["output_json"] == {"a": 1}
    assert body["sample"]["choices"][0]["message"]["content"] == '{"a": 1}'


@pytest.mark.parametrize(
    "reply",
    [None, [], {}, {"score": None}, {"score": "1"}, {"score": True}, {"score": [1]}, "1", 1],
)
def test_what_is_no_score_is_a_failure(endpoint: Open, reply: Any) -> None:
    _, grader = endpoint(lambda asked: Says(reply))
    grade = grader.grade(SAMPLE, ITEM)
    assert grade.reward is None
    assert grade.errors == {"other_error"}


@pytest.mark.parametrize(
    ("says", "flag", "num_asked"),
    [
        (Says({}, status=404), "other_error", 1),
        (Says({}, status=500, headers={"Retry-After": "0"}), "other_error", 4),
        (Says({"score": 1}, status=302, headers={"Location": "/"}), "other_error", 1),
        (Says(raw=b'{"score": Infinity}'), "other_error", 1),
        (Says(raw=b" " * 2_000_000), "other_error", 1),
    ],
)
def test_bad_endpoints(endpoint: Open, says: Says, flag: str, num_asked: int) -> None:
    peer, grader = endpoint(lambda asked: says)
    assert grader.grade(SAMPLE, ITEM).errors == {flag}
    assert len(peer.asked) == num_asked


def test_an_endpoint_that_does_not_answer_is_unresponsive(
    endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.graders.calling._FIRST_WAIT_SECONDS", 0.01)
    peer, grader = endpoint(lambda asked: Says({}, delay_seconds=3), timeout_seconds=0.5)
    grade = grader.grade(SAMPLE, ITEM)
    assert grade.errors == {"unresponsive_reward_error"}
    assert "within 0.5 seconds (asked 4 times)" in grade.error_detail
    assert len({asked.body["trace_id"] for asked in peer.asked}) == 1


def test_too_much_to_send_is_a_truncated_observation(endpoint: Open) -> None:
    peer, grader = endpoint(lambda asked: Says({"score": 1}))
    grade = grader.grade(Sample(output_text="x" * 1_100_000), ITEM)
    assert grade.errors == {"truncated_observation_error"}
    assert peer.asked == []


def secret_of(project: str, server_secret: str = SECRET) -> str:
    (key,) = GraderSettings(endpoint_secret=SecretStr(server_secret)).endpoint_keys()
    return shown_secret(project_key(key, project))


def test_requests_are_signed_as_standard_webhooks_are_with_the_projects_own_secret(
    endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONED_ENDPOINT_SECRET", SECRET)
    with on_behalf_of("proj_a"):
        peer, grader = endpoint(lambda asked: Says({"score": 1}))
    assert grader.grade(SAMPLE, ITEM).reward == 1
    (asked,) = peer.asked
    Webhook(secret_of("proj_a")).verify(asked.raw, asked.headers)
    assert asked.headers["webhook-id"] == asked.body["trace_id"]
    for strange in (secret_of("proj_b"), secret_of(""), SECRET):
        with pytest.raises(WebhookVerificationError):
            Webhook(strange).verify(asked.raw, asked.headers)


def test_while_the_secret_is_changed_receivers_may_know_either(
    endpoint: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = "whsec_bmV3LW5ldy1uZXctbmV3LW5ldy1uZXct"
    monkeypatch.setenv("HONED_ENDPOINT_SECRET", f"{new}, {SECRET}")
    with on_behalf_of("proj_a"):
        peer, grader = endpoint(lambda asked: Says({"score": 1}))
    grader.grade(SAMPLE, ITEM)
    (asked,) = peer.asked
    for known in (secret_of("proj_a", new), secret_of("proj_a")):
        Webhook(known).verify(asked.raw, asked.headers)


@pytest.mark.parametrize("secret", ["whsec_!", "whsec_c2hvcnQ=", f"{SECRET},", "hush"])
def test_a_secret_that_is_none_is_said_at_start(secret: str) -> None:
    with pytest.raises(ValueError, match="base64 of 24 random bytes") as refused:
        GraderSettings(endpoint_secret=SecretStr(secret))
    assert secret not in str(refused.value)


def test_rate_limit_is_requests_a_second() -> None:
    pace = Pace(per_second=50)
    started = time.monotonic()
    for _ in range(6):
        pace.wait()
    assert time.monotonic() - started >= 5 / 50


def test_a_rate_limited_endpoint_still_grades(endpoint: Open) -> None:
    _, grader = endpoint(lambda asked: Says({"score": 1}), rate_limit=1000, pass_threshold=8)
    assert grader.grade(SAMPLE, ITEM).reward == 1


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"url": "http://example.com/"}, "url", "https"),
        ({"url": "https://127.0.0.1/"}, "url", "bare address"),
        ({"url": "https://a.example/", "headers": {"Host": "b"}}, "headers", "set by this server"),
        ({"url": "https://a.example/", "headers": {"webhook-id": "b"}}, "headers", "set by this"),
        ({"url": "https://a.example/", "headers": {"X": "a\r\nY: b"}}, "headers", "printable"),
        ({"url": "https://a.example/", "headers": {"X Y": "a"}}, "headers", "not a header's name"),
        ({"url": "https://a.example/", "headers": {"X": "<hidden>"}}, "headers", "not shown"),
        ({"url": "https://a.example/?key=<hidden>"}, "url", "not shown"),
        ({"url": "https://a.example/", "rate_limit": 0}, "rate_limit", "greater than 0"),
        ({"url": "https://a.example/", "timeout_seconds": 601}, "timeout_seconds", "600"),
        ({}, "url", "missing"),
    ],
)
def test_refused(fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(GraderInvalid, match=words) as refused:
        parse_grader({"type": "endpoint", **fields})
    assert refused.value.param.split(".")[0] == param


def test_a_name_inside_is_refused_when_it_is_called() -> None:
    grade = parse_grader({"type": "endpoint", "url": "https://localhost:8443/"}).grade(SAMPLE, ITEM)
    assert grade.errors == {"other_error"}
    assert "private address" in grade.error_detail


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a.example/g?key=hush&v=2", "https://a.example/g?key=<hidden>&v=<hidden>"),
        ("https://a.example/g?hush", "https://a.example/g?<hidden>"),
        ("https://a.example:8443/g?a=hush;b=hush==#hush",
         "https://a.example:8443/g?a=<hidden>#<hidden>"),
        ("https://a.example/g", "https://a.example/g"),
    ],
)  # fmt: skip
def test_what_may_be_a_secret_is_not_shown_to_others(url: str, shown: str) -> None:
    headers = {"Authorization": "Bearer hush"}
    alone = {"type": "endpoint", "url": url, "headers": headers}
    for definition in (alone, {"type": "multi", "graders": {"a": alone}}):
        seen = json.dumps(without_secrets(definition))
        assert "hush" not in seen
        assert json.dumps(shown) in seen
        assert "Authorization" in seen
    assert (alone["url"], alone["headers"]) == (url, headers)


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "https://a.example/?key=hush" + "x" * 3000},
        {"url": "https://a.example/", "headers": {"X": "hush" * 3000}},
        {"url": {"key": "hush"}},
        {"url": "https://a.example/", "headers": {"X": ["hush"]}},
        {"url": "https://a.example/", "headers": "hush"},
        {"url": "http://a.example/?key=hush"},
        {"url": "https://10.0.0.1/?key=hush"},
        {"url": "https://a.example:22/?key=hush"},
    ],
)
def test_no_error_repeats_what_may_be_a_secret(fields: dict[str, Any]) -> None:
    definition = {"type": "multi", "graders": {"a": {"type": "endpoint", **fields}}}
    with pytest.raises(GraderInvalid) as refused:
        parse_grader({**definition, "calculate_output": "a"})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "says",
    [
        Says({}, status=400),
        Says({}, status=302),
        Says(hangs_up=True),
        Says(raw=b"<html>"),
        Says({}),
    ],
)
def test_the_endpoint_is_asked_with_its_query_and_no_failure_tells_it(
    endpoint: Open, monkeypatch: pytest.MonkeyPatch, says: Says
) -> None:
    monkeypatch.setattr("jobs.graders.calling._FIRST_WAIT_SECONDS", 0.01)
    peer, _ = endpoint(lambda asked: says)
    means = Means.of(GraderSettings())
    definition = {"type": "endpoint", "url": f"{peer.url}/grade?key=hush"}
    grade = parse_grader(definition, means).grade(SAMPLE, ITEM)
    means.close()
    assert peer.asked[0].path == "/grade?key=hush"
    assert grade.errors == {"other_error"}
    assert "hush" not in str(grade)
