"""The model card that travels with an adapter."""

from worker.card import Card, thinned

RESOLVED = {
    "model": {"name": "org/base", "revision": "abc123", "folder": None},
    "training": {"sha256": "f00d", "num_rows": 12},
    "hyperparameters": {"learning_rate": 2e-5},
}


def test_card_says_base_data_grader_and_curve() -> None:
    grader = {"type": "string_check", "operation": "eq"}
    card = Card(job_id="ftjob-1", resolved=RESOLVED, grader=grader, seed=7)

    text = card.text(2, [(1, 0.25), (2, 0.5)])

    assert text.startswith("---\nbase_model: org/base\nlibrary_name: peft\n")
    for part in ("revision `abc123`", "sha256 `f00d`, 12 rows", '"operation": "eq"', "2e-05"):
        assert part in text
    assert "| 1 | 0.2500 |\n| 2 | 0.5000 |" in text
    assert text == card.text(2, [(1, 0.25), (2, 0.5)])


def test_a_card_shows_no_key_of_an_endpoint() -> None:
    grader = {
        "type": "endpoint",
        "url": "https://a.example/grade?key=hush",
        "headers": {"X-Key": "hush"},
    }
    text = Card(job_id="ftjob-1", resolved=RESOLVED, grader=grader, seed=7).text(1, [])
    assert '"url": "https://a.example/grade?key=<hidden>"' in text
    assert "hush" not in text


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    curve = [(step, 0.0) for step in range(1, 1001)]
    points = thinned(curve)
    assert len(points) <= 50
    assert points[-1] == (1000, 0.0)
    assert points == sorted(points)
    assert thinned([]) == []
