"""What the log's lines carry, in either form, and what never gets into them."""

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from jobs import log
from jobs.request_id import REQUEST_ID_VARIABLE, request_id
from jobs.settings import get_settings

Lines = Callable[[], str]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """What was written to standard error since the last look. Logging is put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(log, "_whole_process", {})
    get_settings.cache_clear()
    yield lambda: capsys.readouterr().err
    get_settings.cache_clear()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def as_json(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> Lines:
    monkeypatch.setenv("HONED_LOG_FORMAT", "json")
    return lines


def parsed(written: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.splitlines()]


def test_a_line_says_what_it_is_about(as_json: Lines) -> None:
    log.configure("worker", get_settings())
    logger = logging.getLogger("any.library")
    logger.info("before")
    with log.about_job("ftjob-1", 2, request="req_a"):
        logger.warning("within %s", "a job", extra={"fields": {"more": 1}})
    logger.info("after")
    before, within, after = parsed(as_json())
    assert {"time", "level", "process", "pid", "logger", "message"} == set(before) == set(after)
    assert (within["level"], within["process"], within["logger"]) == (
        "warning",
        "worker",
        "any.library",
    )
    assert (within["request_id"], within["job_id"], within["attempt"]) == ("req_a", "ftjob-1", 2)
    assert (within["message"], within["more"]) == ("within a job", 1)
    assert str(within["time"]).endswith("+00:00")


def test_a_jobs_own_process_says_it_on_every_thread(
    as_json: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUEST_ID_VARIABLE, "req_b")
    log.configure_for_job("trainer", "ftjob-2", 3)
    thread = threading.Thread(target=lambda: logging.getLogger("x").info("two\nlines"))
    thread.start()
    thread.join()
    (line,) = parsed(as_json())
    assert (line["request_id"], line["job_id"], line["attempt"]) == ("req_b", "ftjob-2", 3)
    assert line["message"] == "two\nlines"


def test_the_form_for_people_is_the_default(lines: Lines) -> None:
    log.configure("service", get_settings())
    named = request_id.set("req_c")
    with log.about_job("ftjob-3", 1, request="req_c"):
        logging.getLogger("x").info("hello")
    request_id.reset(named)
    assert lines().split(" ", 2)[2] == "INFO req_c ftjob-3/1 x: hello\n"


def test_errors_that_end_a_process_and_warnings_are_lines_too(as_json: Lines) -> None:
    import warnings  # noqa: PLC0415

    log.configure("sweeper", get_settings())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("beware", UserWarning, stacklevel=1)
    try:
        raise ValueError("the end")
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    log.refuse("It cannot start.", get_settings())
    said = as_json().splitlines()
    warned, ended, refused = map(json.loads, said)
    assert "beware" in str(warned["message"])
    assert str(ended["error"]).endswith("ValueError: the end")
    assert refused["message"] == "It cannot start."
    assert log.last_words(said[1]) == "ValueError: the end"
    assert log.last_words(said[2]) == "It cannot start."
    assert log.last_words("Killed") == "Killed"


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_do_not_get_into_the_log(
    lines: Lines, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("HONED_LOG_FORMAT", form)
    monkeypatch.setenv("HONED_SERVING_TOKEN", "plain-serving-token")
    monkeypatch.setenv("HONED_METRICS_TOKEN", "plain-metrics-token")
    log.configure("service", get_settings())
    secrets = [
        "hk-abc" + "Zz0_" * 10,
        "sk-proj" + "q" * 30,
        "whsec_" + "A1b2" * 8 + "=",
        "plain-serving-token",
        "plain-metrics-token",
        "some.bearer-token~x",
        "pa55",
    ]
    try:
        raise ValueError(f"Authorization: Bearer {secrets[5]}, {secrets[0]}")
    except ValueError:
        logging.getLogger("x").exception(
            "postgresql://honed:%s@10.0.0.1:5432/honed %s", secrets[6], secrets[:5]
        )
    said = lines()
    assert [secret for secret in secrets if secret in said] == []
    assert "hk-abc..." in said
    assert "postgresql://honed:...@10.0.0.1:5432/honed" in said
