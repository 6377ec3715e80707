"""Pictures that judges are shown: which URLs are passed on, and which are refused where."""

from typing import Any

import pytest
from court import SAMPLE, SCORE
from peer_server import Says, verdict

from jobs.graders import GraderInvalid, parse_grader

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def shown(url: str) -> dict[str, Any]:
    part = {"type": "input_image", "image_url": url, "detail": "low"}
    return {**SCORE, "input": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.png",
        "http://{{item.host}}/a.png",
        "file:///etc/passwd",
        "file:{{item.path}}",
        "gopher://example.com/",
        "//example.com/a.png",
        "https://127.0.0.1/a.png",
        "https://[::1]/a.png",
        "https://2130706433/a.png",
        "https://user:pw@example.com/a.png",
        "data:text/html;base64,aGk=",
        "data:image/svg+xml;base64,aGk=",
        "data:image/png;base64," + "A" * 3_000_000,
    ],
)
def test_pictures_are_https_or_in_the_url_and_others_are_refused_at_the_door(
    court: Any, url: str
) -> None:
    means = court(lambda asked: Says(verdict(1))).means
    with pytest.raises(GraderInvalid, match="image_url") as refused:
        parse_grader(shown(url), means)
    assert refused.value.param == "input.0.content"


@pytest.mark.parametrize(
    ("url", "flag"),
    [
        ("https://example.com/a.png", None),
        (PICTURE, None),
        ("http://example.com/a.png", "invalid_variable_error"),
        ("https://169.254.169.254/latest", "invalid_variable_error"),
        ("file:///etc/passwd", "invalid_variable_error"),
        ("data:image/png;base64," + "A" * 3_000_000, "truncated_observation_error"),
    ],
)
def test_a_rows_own_picture_is_held_to_the_same(court: Any, url: str, flag: str | None) -> None:
    here = court(lambda asked: Says(verdict(1)))
    grade = parse_grader(shown("{{item.picture}}"), here.means).grade(SAMPLE, {"picture": url})
    assert grade.errors == ({flag} if flag else set())
    if flag is None:
        (part,) = here.peer.asked[0].body["messages"][0]["content"]
        assert part == {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    else:
        assert here.peer.asked == []
