"""What a step's metrics say of judges: refusals and answers of no use apart, and what each took."""

import json
from typing import Any

import pytest
from peer_server import Asked, Says, completion, serving, verdict

from jobs.datasets import Row
from jobs.graders import Means, parse_grader
from jobs.graders.settings import GraderSettings
from worker.grading import Grading
from worker.grpo.component_metrics import component_metrics
from worker.grpo.config import GrpoConfig
from worker.grpo.types import Group, Prompt, Rollout
from worker.prompts import Completion

MESSAGES = [{"role": "user", "content": "{{sample.output_text}}"}]
SCORE = {"type": "score_model", "model": "strict", "input": MESSAGES}
LABEL = {
    "type": "label_model",
    "model": "mild",
    "input": MESSAGES,
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
}
MULTI = {
    "type": "multi",
    "graders": {"score": SCORE, "label": LABEL},
    "calculate_output": "score + label",
}


class Renderer:
    """Completions whose text is their first id."""

    def completion(self, prompt_ids: Any, ids: list[int], *, is_cut: bool, tools: Any) -> Any:
        return Completion(str(ids[0]), None, not is_cut)


def judge(asked: Asked) -> Says:
    """Refuses the 1, rambles at the 2, gives another's answer to the 3, is down for the 4."""
    is_label = "enum" in asked.raw.decode()
    match asked.last_text:
        case "1":
            return Says(completion(None, refusal="I will not", tokens=(100, 7, 60)))
        case "2":
            return Says(completion("Well, that depends.", tokens=(100, 9, 0)))
        case "3":
            return Says(verdict("splendid", tokens=(100, 5, 0)))
        case "4":
            return Says({}, status=503, headers={"Retry-After": "0"})
    return Says(verdict("good" if is_label else 0.5, tokens=(100, 1, 0)))


def test_a_steps_metrics_tell_each_judges_failures_and_costs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving(judge) as peer:
        at = {"base_url": f"{peer.url}/v1", "max_retries": 1, "timeout_seconds": 10}
        monkeypatch.setenv("HONED_JUDGES", json.dumps({"strict": at, "mild": at}))
        means = Means.of(GraderSettings())
        grading = Grading(parse_grader(MULTI, means), Renderer())  # type: ignore[arg-type]
        prompt = Prompt(index=0, ids=[1], payload=Row(1, [], {}))
        rollouts = [Rollout(0, 0, [number], [0.0], "stop", [True]) for number in range(8)]
        graded = [grading.submit(prompt, one).result(30) for one in rollouts]
        grading.close()
        means.close()
    assert [one.reward for one in graded] == [1.5, None, None, None, None, 1.5, 1.5, 1.5]

    groups = [Group(prompt, [], graded, [0.0] * 8)]
    config = GrpoConfig(total_steps=1, max_completion_tokens=8, learning_rate=1e-3)
    metrics = component_metrics(groups, groups, config)
    for name in ("score", "label"):
        assert metrics[f"rewards/{name}/error_ratio"] == 4 / 8
        assert metrics[f"rewards/{name}/errors/model_grader_refusal_error"] == 1 / 8
        assert metrics[f"rewards/{name}/errors/model_grader_parse_error"] == 2 / 8
        assert metrics[f"rewards/{name}/errors/model_grader_server_error"] == 1 / 8
        assert metrics[f"rewards/{name}/seconds_p95"] >= metrics[f"rewards/{name}/seconds_p50"]
    for name in ("strict", "mild"):
        # The one that is down is asked twice, and takes nothing that anybody knows of.
        assert metrics[f"judges/{name}/requests"] == 9
        assert metrics[f"judges/{name}/prompt_tokens"] == 700
        assert metrics[f"judges/{name}/completion_tokens"] == 7 + 9 + 5 + 4
        assert metrics[f"judges/{name}/cached_tokens"] == 60
