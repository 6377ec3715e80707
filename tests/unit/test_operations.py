"""The page for the person on call says what the code says, in its words."""

import re
from itertools import chain
from pathlib import Path

from jobs.graders.settings import GraderSettings
from jobs.status import Reason
from service.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
TABLE = [line for line in PAGE.splitlines() if line.startswith("| **")]

# What others say: the database, and the supervisor's tools.
NOT_OURS = {"database is locked"}
COMMANDS = ("apt-get ", "honed ", "py-spy ", "python ")


def said_by_the_code() -> str:
    """Every source, with sentences that are broken over lines put together, and no braces."""
    files = chain.from_iterable(
        (ROOT / room).rglob("*.py") for room in ("jobs", "service", "worker")
    )
    text = "\n".join(path.read_text() for path in files)
    return re.sub(r"\"\s*\n\s*f?\"", "", text)


def test_each_sentence_it_quotes_is_one_that_is_said() -> None:
    source, missing = said_by_the_code(), []
    for quoted in re.findall(r"`([^`]*)`", "".join(TABLE)):
        if quoted.count(" ") < 2 or quoted in NOT_OURS or quoted.startswith(COMMANDS):
            continue
        # Between what changes: numbers, names.
        parts = re.split(r"\.\.\.|\bN\b|\bSIGKILL\b|\b\d+\b", quoted)
        missing += [part for part in map(str.strip, parts) if part not in source]
    assert missing == []


def test_its_settings_and_reasons_are_there() -> None:
    fields = [*ServiceSettings.model_fields, *GraderSettings.model_fields]
    names = {f"HONED_{name.upper()}" for name in fields}
    assert set(re.findall(r"HONED_[A-Z_]+", PAGE)) <= names
    assert {"worker_lost"} <= {reason.value for reason in Reason}
    for reason in re.findall(r"`reason` `(\w+)`|ends as `(\w+)`", PAGE):
        assert "".join(reason) in set(Reason)


def test_each_failure_says_what_is_seen_what_is_done_and_what_to_do() -> None:
    for line in TABLE:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == 4, line
        assert all(cells), line
