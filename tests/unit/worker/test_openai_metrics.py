"""OpenAI's names for a step's numbers, against numbers worked out by hand."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from jobs.graders import Means, parse_grader
from worker import openai_metrics
from worker.grpo.types import Evaluation, Graded, Group, Prompt, Rollout, StepResult
from worker.report import _checkpoint_metrics, _sentence, metrics_row

EXACT = {
    "type": "string_check",
    "name": "exact",
    "operation": "eq",
    "input": "{{sample.output_json.n}}",
    "reference": "{{item.n}}",
}
SHORT = {"type": "length", "unit": "words", "max": 3}
SINGLE = parse_grader(EXACT)
MULTI = parse_grader(
    {
        "type": "multi",
        "name": "both",
        "graders": {"right": EXACT, "short": SHORT},
        "calculate_output": "right + short",
    }
)


def graded(reward: float | None, *errors: str, thought: int = 0, **components: Any) -> Graded:
    return Graded(
        reward=reward,
        components=components,
        errors=dict.fromkeys(errors, 1),
        seconds=0.5,
        text="",
        num_reasoning_tokens=thought,
    )


def step_of(train: list[Graded], valid: list[Graded] | None) -> StepResult:
    rollouts = [
        Rollout(0, index, [7] * (index + 2), [0.0] * (index + 2), "stop", [True] * (index + 2))
        for index in range(len(train))
    ]
    group = Group(Prompt(0, [1]), rollouts, train, [0.0] * len(train))
    evaluation: Any = None
    if valid is not None:
        known = [one.reward for one in valid if one.reward is not None]
        evaluation = SimpleNamespace(
            reward=sum(known) / len(known),
            rewards=[one.reward for one in valid],
            graded=valid,
            sampled=[],
        )
        assert set(vars(evaluation)) <= set(Evaluation.__slots__)
    metrics = {"reward": 0.5, "loss": -0.25, "step_time": 9.0, "kl": float("nan"), "entropy": None}
    seconds: Any = {"sampling": 4.0, "training": 3.0, "evaluating": 2.0}
    groups = [group] if train else []
    return StepResult(10, metrics, groups, groups, evaluation, seconds)


STEP = step_of(
    train=[graded(1.0, thought=6), graded(0.0), graded(None, "sample_parse_error")],
    valid=[
        graded(0.25),
        graded(0.5, thought=2),
        graded(None, "sample_parse_error"),
        graded(None, "not_finite"),
    ],
)


def test_both_spellings_of_every_reward() -> None:
    row = metrics_row(STEP)
    assert row["train_reward_mean"] == row["train_mean_reward"] == 0.5
    assert row["valid_reward_mean"] == row["full_valid_mean_reward"] == 0.375
    assert row["full_valid_mean_parse_error"] == 0.25
    assert row["completion_tokens_mean"] == 3.0
    assert (row["reasoning_tokens_mean"], row["valid_reasoning_tokens_mean"]) == (2.0, 0.5)
    assert row["mean_unresponsive_rewards"] == 0.0
    assert "kl" not in row
    scores = openai_metrics.nested(STEP, SINGLE)["scores"]
    both = {"train_reward_mean": 0.5, "valid_reward_mean": 0.375}
    assert scores == {"graders": [{"name": "exact", "type": "string_check", **both}], **both}


def test_errors_by_family_timing_and_usage() -> None:
    parts = openai_metrics.nested(STEP, SINGLE)
    (errors,) = parts["errors"]["graders"]
    assert (errors["train_sample_parse_error_count"], errors["valid_other_error_count"]) == (1, 1)
    assert errors["train_sample_parse_error_mean"] == 1 / 3
    assert errors["valid_other_error_mean"] == errors["valid_sample_parse_error_mean"] == 0.25
    assert errors["train_model_grader_server_error_mean"] == 0.0
    assert len(errors) == 2 + 6 * 4
    assert parts["timing"]["step"] == {
        "sampling": 4.0,
        "training": 3.0,
        "eval": 2.0,
        "full_iteration": 9.0,
    }
    assert parts["timing"]["graders"][0]["valid_execution_latency_mean"] == 0.5
    assert parts["usage"]["samples"] == {
        "train_reasoning_tokens_mean": 2.0,
        "valid_reasoning_tokens_mean": 0.5,
        "train_reasoning_tokens_count": 6.0,
        "valid_reasoning_tokens_count": 2.0,
    }
    assert openai_metrics.error_columns(parts["errors"]) == {
        "errors/graders/exact/train_sample_parse_error_mean": 1 / 3,
        "errors/graders/exact/valid_sample_parse_error_mean": 0.25,
        "errors/graders/exact/valid_other_error_mean": 0.25,
    }


def test_a_multis_graders_each_have_their_own() -> None:
    failed = graded(None, "sample_parse_error", right=None, short=0.5)
    failed = replace(failed, part_errors={"right": ("sample_parse_error",), "short": ()})
    whole = replace(graded(2.0, right=1.0, short=1.0), part_seconds={"right": 0.25, "short": 0.5})
    train = [whole, failed]
    parts = openai_metrics.nested(step_of(train, None), MULTI)
    assert parts["scores"] == {
        "graders": [
            {
                "name": "right",
                "type": "string_check",
                "train_reward_mean": 1.0,
                "valid_reward_mean": None,
            },
            {
                "name": "short",
                "type": "length",
                "train_reward_mean": 0.75,
                "valid_reward_mean": None,
            },
        ],
        "train_reward_mean": 2.0,
        "valid_reward_mean": None,
    }
    right, short = parts["errors"]["graders"]
    assert right["train_sample_parse_error_mean"] == 0.5
    assert short["train_sample_parse_error_mean"] == 0.0
    latencies = [one["train_execution_latency_mean"] for one in parts["timing"]["graders"]]
    assert latencies == [0.25, 0.5]
    assert (parts["usage"]["graders"], parts["model_graders_token_usage"]) == ([], {})


def test_a_judges_tokens_are_told_a_grade_and_in_all() -> None:
    judge = {"type": "score_model", "model": "j", "input": [{"role": "user", "content": "?"}]}
    grader = parse_grader(
        {"type": "multi", "graders": {"style": judge, "right": EXACT}, "calculate_output": "style"},
        Means(judges={"j": cast(Any, object())}),
    )
    counts = {"judges/j/prompt_tokens": 30.0, "judges/j/completion_tokens": 8.0}
    counts["judges/j/cached_tokens"] = 5.0
    asked = replace(graded(1.0), counts=counts, part_counts={"style": counts})
    parts = openai_metrics.nested(step_of([asked, graded(1.0)], [asked]), grader)
    assert parts["usage"]["graders"] == [
        {
            "name": "style",
            "type": "score_model",
            "model": "j",
            "train_prompt_tokens_count": 30.0,
            "train_prompt_tokens_mean": 15.0,
            "train_completion_tokens_count": 8.0,
            "train_completion_tokens_mean": 4.0,
            "valid_prompt_tokens_count": 30.0,
            "valid_prompt_tokens_mean": 30.0,
            "valid_completion_tokens_count": 8.0,
            "valid_completion_tokens_mean": 8.0,
        }
    ]
    assert parts["model_graders_token_usage"] == {
        "j": {
            "train_prompt_tokens": 30,
            "train_completion_tokens": 8,
            "train_cached_tokens": 5,
            "eval_prompt_tokens": 30,
            "eval_completion_tokens": 8,
            "eval_cached_tokens": 5,
        }
    }


def test_each_grader_that_asks_the_same_judge_has_its_own_tokens() -> None:
    judge = {"type": "score_model", "model": "j", "input": [{"role": "user", "content": "?"}]}
    grader = parse_grader(
        {"type": "multi", "graders": {"style": judge, "tone": judge}, "calculate_output": "style"},
        Means(judges={"j": cast(Any, object())}),
    )
    asked = replace(
        graded(1.0),
        counts={"judges/j/prompt_tokens": 50.0, "judges/j/completion_tokens": 5.0},
        part_counts={
            "style": {"judges/j/prompt_tokens": 30.0, "judges/j/completion_tokens": 4.0},
            "tone": {"judges/j/prompt_tokens": 20.0, "judges/j/completion_tokens": 1.0},
        },
    )
    parts = openai_metrics.nested(step_of([asked, asked], None), grader)
    told = [
        (one["name"], one["train_prompt_tokens_count"], one["train_completion_tokens_mean"])
        for one in parts["usage"]["graders"]
    ]
    assert told == [("style", 60.0, 4.0), ("tone", 40.0, 1.0)]
    assert parts["model_graders_token_usage"]["j"]["train_prompt_tokens"] == 100


def test_tokens_of_sampled_answers_and_replaced_groups_count_and_their_rewards_do_not() -> None:
    judge = {"type": "score_model", "model": "j", "input": [{"role": "user", "content": "?"}]}
    grader = parse_grader(judge, Means(judges={"j": cast(Any, object())}))
    counts = {"judges/j/prompt_tokens": 10.0, "judges/j/completion_tokens": 1.0}
    asked = replace(graded(1.0), counts=counts, part_counts={"score_model": counts})
    step = step_of([asked], [asked])
    step.evaluation.sampled.append([replace(asked, reward=0.0)] * 4)
    unused = Group(Prompt(1, [1]), [], [replace(asked, reward=0.0)] * 2, [])
    parts = openai_metrics.nested(replace(step, drawn=[*step.groups, unused]), grader)
    (usage,) = parts["usage"]["graders"]
    assert (usage["train_prompt_tokens_count"], usage["valid_prompt_tokens_count"]) == (30.0, 50.0)
    assert usage["valid_prompt_tokens_mean"] == 10.0
    assert parts["model_graders_token_usage"]["j"]["eval_completion_tokens"] == 5
    assert parts["scores"]["train_reward_mean"] == parts["scores"]["valid_reward_mean"] == 1.0


def test_the_sentence_that_scripts_grep() -> None:
    assert _sentence(metrics_row(STEP), 10, 20) == (
        "Step 10/20 , train mean reward=0.50, full validation mean reward=0.38, "
        "full validation mean parse error=0.25"
    )
    first = metrics_row(step_of([], [graded(1.0)]))
    assert _sentence(first, 0, 20).startswith("Step 0/20 , full validation mean reward=1.00")
    assert _sentence(metrics_row(step_of([graded(1.0)], None)), 1, 20) == (
        "Step 1/20 , train mean reward=1.00"
    )


def test_a_checkpoint_has_every_name_always() -> None:
    row = {**metrics_row(STEP), **openai_metrics.nested(STEP, SINGLE)}
    shown = _checkpoint_metrics(10, row)
    assert shown["train_mean_reward"] == shown["scores"]["train_reward_mean"] == 0.5
    assert shown["full_valid_mean_reward"] == shown["scores"]["valid_reward_mean"] == 0.375
    assert (shown["step"], shown["train_loss"]) == (10, -0.25)
    assert set(_checkpoint_metrics(10, {})) == set(shown)


def test_grades_that_fail_in_an_evaluation_are_counted_and_are_no_zeros() -> None:
    valid = [graded(1.0), graded(None, "other_error"), graded(0.25), graded(0.0, "other_error")]
    row = metrics_row(step_of([graded(1.0)], valid))
    # The last one's grader failed, too; `on_grader_error` put a number in its place.
    assert (row["eval_num_rows"], row["eval_num_errors"]) == (4, 2)
    assert row["valid_reward_mean"] == (1.0 + 0.25 + 0.0) / 3
