"""Bad rows in words: every line, and no message without end."""

from jobs.datasets import RowFault
from worker.row_faults import MAX_FAULTS_TOLD, sentence, told


def faults(*lines: int) -> list[RowFault]:
    return [RowFault(line, "is wrong") for line in lines]


def test_a_few_are_told_with_their_reasons() -> None:
    assert sentence("a.jsonl", faults(3)) == "a.jsonl: 1 row cannot be used. line 3: is wrong"
    assert sentence("a.jsonl", faults(3, 9)).endswith(
        "2 rows cannot be used. line 3: is wrong; line 9: is wrong"
    )


def test_the_others_by_their_lines() -> None:
    text = sentence("a.jsonl", faults(*range(1, 21), 30, 31, 32, 40))
    assert text.endswith("line 20: is wrong; and 4 more, on lines 30-32, 40")


def test_tens_of_thousands_are_still_a_message() -> None:
    every_other = faults(*range(1, 50_000, 2))
    text = sentence("a.jsonl", every_other)
    assert text.startswith("a.jsonl: 25000 rows cannot be used. ")
    assert text.endswith(" and 24780 other ranges")
    assert len(text) < 3000
    assert len(told(every_other)) == MAX_FAULTS_TOLD
    assert told(every_other)[1] == {"line": 3, "reason": "is wrong"}
