"""score_model against a server that plays the judge, well and badly."""

import json
import threading
from typing import Any

import pytest
from court import ITEM, SAMPLE, SCORE
from peer_server import Asked, Says, completion, verdict

from jobs.graders import Sample, parse_grader
from jobs.graders.grade import Usage
from jobs.graders.ports import Spent


def test_the_reward_is_the_judges_result_and_its_tokens_are_counted(court: Any) -> None:
    here = court(lambda asked: Says(verdict(0.75, tokens=(100, 20, 64))))
    grade = here.grade()
    assert grade.reward == 0.75
    assert grade.usage == {"strict": Usage(1, 100, 20, 64)}
    assert grade.judge_model == "judge-1"
    (asked,) = here.peer.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer sk-secret"
    assert asked.body["model"] == "gpt-judge"
    assert asked.body["messages"] == [
        {"role": "system", "content": "Grade from 0 to 1."},
        {"role": "user", "content": "2 + 2? -> It is 4."},
    ]
    form = asked.body["response_format"]["json_schema"]
    assert form["strict"] is True
    assert form["schema"]["required"] == ["steps", "result"]


def test_sampling_params_go_by_chats_own_names(court: Any) -> None:
    here = court(lambda asked: Says(verdict(1)))
    params = {
        "seed": 7,
        "top_p": 0.9,
        "temperature": 0.2,
        "max_completions_tokens": 99,
        "reasoning_effort": "low",
    }
    here.grade({**SCORE, "sampling_params": params})
    body = here.peer.asked[0].body
    assert {key: body[key] for key in ("seed", "top_p", "temperature", "reasoning_effort")} == {
        "seed": 7,
        "top_p": 0.9,
        "temperature": 0.2,
        "reasoning_effort": "low",
    }
    assert body["max_completion_tokens"] == 99
    assert "max_completions_tokens" not in body


def test_parts_and_the_whole_conversation_can_be_shown(court: Any) -> None:
    here = court(lambda asked: Says(verdict(1)))
    parts = [
        {"type": "input_text", "text": "{{item.messages}}"},
        {"type": "input_image", "image_url": "https://example.com/{{item.question}}"},
    ]
    message = {"type": "message", "role": "user", "content": parts}
    one_part = {"role": "user", "content": parts[0]}
    here.grade({**SCORE, "input": [message, one_part]})
    text = {"type": "text", "text": '[{"role":"user","content":"2 + 2?"}]'}
    image = {"type": "image_url", "image_url": {"url": "https://example.com/2 + 2?"}}
    assert here.peer.asked[0].body["messages"] == [
        {"role": "user", "content": [text, image]},
        {"role": "user", "content": [text]},
    ]


def test_results_outside_the_range_are_clamped_and_counted(court: Any) -> None:
    here = court(lambda asked: Says(verdict(11)))
    grade = here.grade({**SCORE, "range": [0, 10]})
    assert grade.reward == 10
    assert grade.incidents == {"result_clamped": 1}


@pytest.mark.parametrize(
    ("reply", "flag"),
    [
        (completion(None, refusal="I will not"), "model_grader_refusal_error"),
        (completion("", finish_reason="content_filter"), "model_grader_refusal_error"),
        (completion("nine out of ten"), "model_grader_parse_error"),
        (completion('{"steps": [], "res', finish_reason="length"), "model_grader_parse_error"),
        (completion('{"steps": []}'), "model_grader_parse_error"),
        (verdict("high"), "model_grader_parse_error"),
        (verdict(True), "model_grader_parse_error"),
        (verdict(None), "model_grader_parse_error"),
        (completion('{"result": NaN}'), "model_grader_parse_error"),
        (completion("[1]"), "model_grader_parse_error"),
        ({"choices": []}, "model_grader_server_error"),
        ({}, "model_grader_server_error"),
        ([], "model_grader_server_error"),
        ("text", "model_grader_server_error"),
    ],
)
def test_what_is_no_verdict_is_a_failure_of_its_own_kind(court: Any, reply: Any, flag: str) -> None:
    grade = court(lambda asked: Says(reply)).grade()
    assert grade.reward is None
    assert grade.errors == {flag}
    assert "strict" in grade.details[flag]
    if flag != "model_grader_server_error":
        assert grade.usage["strict"].prompt_tokens == 10


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (Says({"error": {"code": "invalid_api_key", "message": "sk-secret"}}, status=401),
         "401 (invalid_api_key)"),
        (Says({}, status=500), "500 (asked 2 times)"),
        (Says({}, status=302, headers={"Location": "http://127.0.0.1:1/"}), "redirect"),
        (Says(raw=b"<html>"), "not JSON"),
        (Says(raw=b"x" * 5_000_000), "larger than"),
        (Says(hangs_up=True), "connection failed"),
        (Says({}, delay_seconds=1.0), "within 0.3 seconds"),
    ],
)  # fmt: skip
def test_a_bad_server_is_a_server_error_that_shows_nothing_secret(
    court: Any, says: Says, words: str
) -> None:
    grade = court(lambda asked: says, timeout_seconds=0.3).grade()
    assert grade.errors == {"model_grader_server_error"}
    assert words in grade.error_detail
    assert "sk-secret" not in grade.error_detail


def test_a_server_that_recovers_is_asked_again(court: Any) -> None:
    replies = iter(
        [
            Says({}, status=429, headers={"Retry-After": "0"}),
            Says(hangs_up=True),
            Says({}, status=503, headers={"Retry-After": "0"}),
            Says(verdict(1)),
        ]
    )
    here = court(lambda asked: next(replies), max_retries=3)
    assert here.grade().reward == 1.0
    assert len(here.peer.asked) == 4


def test_a_refused_key_is_not_tried_again(court: Any) -> None:
    here = court(lambda asked: Says({}, status=401), max_retries=5)
    here.grade()
    assert len(here.peer.asked) == 1


class Kept(dict[str, Any]):
    """Answers, as a job keeps them."""

    def put(self, key: str, answer: Any) -> None:
        self[key] = json.loads(json.dumps(answer))


class Counted:
    """A budget that counts, and ends after `most` requests."""

    def __init__(self, most: int = 1000) -> None:
        self.usage = Usage()
        self.left = most

    def begin(self) -> None:
        pass

    def request(self) -> None:
        if self.left == 0:
            raise Spent("the job's limit is reached")
        self.left -= 1

    def took(self, usage: Usage) -> None:
        self.usage += usage


def test_a_question_is_asked_once(court: Any) -> None:
    here = court(lambda asked: Says(verdict(0.5)))
    kept, budget = Kept(), Counted()
    grader = parse_grader(SCORE, here.means.kept_in(kept, budget))
    first, again = grader.grade(SAMPLE, ITEM), grader.grade(SAMPLE, ITEM)
    assert (first.reward, again.reward) == (0.5, 0.5)
    assert again.usage == {"strict": Usage()}
    assert budget.usage == Usage(1, 10, 5, 0)
    # Another process with the same kept answers, as after a resume.
    resumed = parse_grader(SCORE, here.means.kept_in(kept, budget))
    assert resumed.grade(SAMPLE, ITEM).reward == 0.5
    assert len(here.peer.asked) == 1
    grader.grade(Sample(output_text="It is 5."), ITEM)
    assert len(here.peer.asked) == 2


def test_every_try_is_a_request_of_the_budget_and_none_is_sent_beyond_it(court: Any) -> None:
    again = Says({}, status=503, headers={"Retry-After": "0"})
    replies = iter([again, again, Says(verdict(1)), again, again])
    here = court(lambda asked: next(replies), max_retries=5)
    budget = Counted(most=5)
    grader = parse_grader(SCORE, here.means.kept_in(Kept(), budget))
    grade = grader.grade(SAMPLE, ITEM)
    assert grade.reward == 1.0
    assert grade.usage == {"strict": Usage(3, 10, 5, 0)}
    # Two requests are left, both fail, and the third try is not sent.
    failed = grader.grade(Sample(output_text="It is 5."), ITEM)
    assert failed.errors == {"model_grader_server_error"}
    assert failed.error_detail == "the job's limit is reached"
    assert failed.usage == {"strict": Usage(2)}
    assert (len(here.peer.asked), budget.left) == (5, 0)


def test_threads_that_ask_the_same_at_once_ask_it_once(court: Any) -> None:
    go = threading.Event()

    def judge(asked: Asked) -> Says:
        go.wait(10)
        return Says(verdict(0.5))

    here = court(judge, timeout_seconds=15)
    grader = parse_grader(SCORE, here.means.kept_in(Kept(), Counted()))
    grades: list[Any] = []
    threads = [
        threading.Thread(target=lambda: grades.append(grader.grade(SAMPLE, ITEM))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    assert len(here.peer.asked) == 1
    assert [grade.reward for grade in grades] == [0.5] * 5
    assert sum(grade.usage["strict"].prompt_tokens for grade in grades) == 10


def test_refusals_are_kept_and_server_errors_are_not(court: Any) -> None:
    replies = iter([Says({}, status=400), Says(completion(None, refusal="no"))])
    here = court(lambda asked: next(replies))
    grader = parse_grader(SCORE, here.means.kept_in(Kept(), Counted()))
    flags = [next(iter(grader.grade(SAMPLE, ITEM).errors)) for _ in range(3)]
    assert flags == [
        "model_grader_server_error",
        "model_grader_refusal_error",
        "model_grader_refusal_error",
    ]


def test_concurrency_is_bounded_by_the_operator(court: Any) -> None:
    here = court(lambda asked: Says(verdict(1), delay_seconds=0.05), concurrency=3)
    grader = parse_grader(SCORE, here.means)
    samples = [Sample(output_text=str(number)) for number in range(12)]
    threads = [threading.Thread(target=grader.grade, args=(one, ITEM)) for one in samples]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(here.peer.asked) == 12
    assert here.peer.most_busy == 3


def test_a_server_without_response_format_is_told_in_words(court: Any) -> None:
    def judge(asked: Asked) -> Says:
        assert "response_format" not in asked.body
        assert "JSON schema" in asked.last_text
        return Says(completion('Sure!\n```json\n{"steps": [], "result": 0.25}\n```'))

    assert court(judge, answer_format="prompt").grade().reward == 0.25
