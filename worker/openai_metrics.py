"""A step's numbers under OpenAI's names: flat as scripts read them, and nested as events have them.

`train_` numbers are over the step's rollouts, `valid_` numbers over the whole held-out set. Where
dynamic sampling replaced groups, rewards and tokens are of the rollouts that were trained on;
errors, latencies and judges' usage are of all that were drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from jobs.graders import GraderSpec
from jobs.graders.multi import Multi
from jobs.graders.questions import JudgedGrader
from jobs.models import Json
from worker.grpo.metrics import mean
from worker.grpo.types import Graded, StepResult

# OpenAI's families of grader errors; a kind that it does not know is an `other_error`.
FAMILIES = (
    "sample_parse_error",
    "invalid_variable_error",
    "other_error",
    "python_grader_server_error",
    "python_grader_runtime_error",
    "model_grader_server_error",
)

# Present in every event and checkpoint, null where the step has no such number: scripts read them
# as attributes.
FLAT = (
    "train_reward_mean",
    "train_mean_reward",
    "valid_reward_mean",
    "full_valid_mean_reward",
    "full_valid_mean_parse_error",
    "mean_unresponsive_rewards",
    "completion_tokens_mean",
    "reasoning_tokens_mean",
    "valid_reasoning_tokens_mean",
)


def flat(result: StepResult) -> Json:
    """The names of FLAT that this step has a number for."""
    train = [one for group in result.groups for one in group.graded]
    drawn = [one for group in result.drawn for one in group.graded]
    row: Json = {}
    if train:
        reward = mean(_rewards(train))
        row |= {
            "train_reward_mean": reward,
            "train_mean_reward": reward,
            "mean_unresponsive_rewards": _share(drawn, "unresponsive_reward_error"),
            "completion_tokens_mean": mean(
                [len(one.completion_ids) for group in result.groups for one in group.rollouts]
            ),
            "reasoning_tokens_mean": _reasoning_mean(train),
        }
    if result.evaluation is not None:
        valid = result.evaluation.graded
        row |= {
            "valid_reward_mean": result.evaluation.reward,
            "full_valid_mean_reward": result.evaluation.reward,
            "full_valid_mean_parse_error": _share(valid, "sample_parse_error"),
            "valid_reasoning_tokens_mean": _reasoning_mean(valid),
        }
    return {name: value for name, value in row.items() if value is not None}


def nested(result: StepResult, grader: GraderSpec) -> Json:
    """The event's `scores`, `errors`, `usage` and `timing`."""
    train = [one for group in result.groups for one in group.graded]
    drawn = [one for group in result.drawn for one in group.graded]
    valid = result.evaluation.graded if result.evaluation else []
    trained, splits = {"train": train, "valid": valid}, {"train": drawn, "valid": valid}
    paid = _paid(result)
    graders = _named(grader)
    return {
        "scores": {
            "graders": [
                {**label, **_each(trained, "reward_mean", partial(_score, key=key))}
                for key, label in graders.items()
            ],
            **_each(trained, "reward_mean", partial(_score, key=None)),
        },
        "errors": {
            "graders": [{**label, **_errors(splits, key)} for key, label in graders.items()]
        },
        "usage": {
            "graders": [
                {**judge, **_tokens(paid, str(judge["model"]), key)}
                for key, judge in _judges(grader).items()
            ],
            "samples": {
                **_each(trained, "reasoning_tokens_mean", _reasoning_mean),
                **_each(trained, "reasoning_tokens_count", _reasoning_count),
            },
        },
        "timing": {
            "step": {
                "sampling": result.seconds.get("sampling", 0.0),
                "training": result.seconds.get("training", 0.0),
                "eval": result.seconds.get("evaluating", 0.0),
                "full_iteration": result.metrics.get("step_time"),
            },
            "graders": [
                {**label, **_each(splits, "execution_latency_mean", partial(_latency, key=key))}
                for key, label in graders.items()
            ],
        },
        "model_graders_token_usage": {
            judge["model"]: _token_usage(paid, str(judge["model"]))
            for judge in _judges(grader).values()
        },
    }


def _paid(result: StepResult) -> dict[str, list[Graded]]:
    """Every grade that the step asked for, also those that are behind none of its means."""
    held_out = result.evaluation
    answers = [held_out.graded, *held_out.sampled] if held_out else []
    return {
        "train": [one for group in result.drawn for one in group.graded],
        "valid": [one for graded in answers for one in graded],
    }


def error_columns(errors: Json) -> Json:
    """The error means that are not zero, as columns of the result file name them."""
    return {
        f"errors/graders/{entry['name']}/{name}": value
        for entry in errors["graders"]
        for name, value in entry.items()
        if name.endswith("_error_mean") and value
    }


def _named(grader: GraderSpec) -> dict[str | None, Json]:
    """Every grader that scores, by its key in a multi (None: the grader itself)."""
    if isinstance(grader, Multi):
        return {key: {"name": key, "type": one.type} for key, one in grader.graders.items()}
    return {None: {"name": grader.name, "type": grader.type}}


def _each(
    splits: Mapping[str, Sequence[Graded]],
    name: str,
    number: Callable[[Sequence[Graded]], float | None],
) -> Json:
    """One number over the rollouts and one over the held-out rows, null of none."""
    return {
        f"{split}_{name}": number(graded) if graded else None for split, graded in splits.items()
    }


def _score(graded: Sequence[Graded], key: str | None) -> float | None:
    if key is None:
        return mean(_rewards(graded))
    return mean([value for one in graded if (value := one.components.get(key)) is not None])


def _errors(splits: Mapping[str, Sequence[Graded]], key: str | None) -> Json:
    """Counts and means by family, of a grader or of one part of a multi."""
    numbers: Json = {}
    for split, graded in splits.items():
        kinds = [one.errors if key is None else one.part_errors.get(key, ()) for one in graded]
        counts = Counter(_family(kind) for failed in kinds for kind in failed)
        for family in FAMILIES:
            numbers[f"{split}_{family}_count"] = float(counts[family])
            numbers[f"{split}_{family}_mean"] = counts[family] / len(graded) if graded else 0.0
    return numbers


def _family(kind: str) -> str:
    return kind if kind in FAMILIES else "other_error"


def _rewards(graded: Iterable[Graded]) -> list[float]:
    return [one.reward for one in graded if one.reward is not None]


def _share(graded: Sequence[Graded], kind: str) -> float | None:
    return mean([float(kind in one.errors) for one in graded])


def _reasoning_mean(graded: Sequence[Graded]) -> float | None:
    return mean([one.num_reasoning_tokens for one in graded])


def _reasoning_count(graded: Sequence[Graded]) -> float:
    return float(sum(one.num_reasoning_tokens for one in graded))


def _latency(graded: Sequence[Graded], key: str | None) -> float | None:
    if key is None:
        return mean([one.seconds for one in graded])
    return mean([one.part_seconds[key] for one in graded if key in one.part_seconds])


def _judges(grader: GraderSpec) -> dict[str, Json]:
    """Each grader that asks a judge, by its key in a multi or, alone, by its name."""
    parts = grader.graders if isinstance(grader, Multi) else {grader.name: grader}
    return {
        key: {"name": key, "type": part.type, "model": part.model}
        for key, part in parts.items()
        if isinstance(part, JudgedGrader)
    }


def _tokens(paid: Mapping[str, Sequence[Graded]], judge: str, key: str) -> Json:
    """What a judge read and wrote for one grader, in all and an answer that it graded."""
    numbers: Json = {}
    for split, graded in paid.items():
        counts = [one.part_counts.get(key, {}) for one in graded]
        for kind in ("prompt_tokens", "completion_tokens"):
            count = _counted(counts, judge, kind)
            numbers[f"{split}_{kind}_count"] = count
            numbers[f"{split}_{kind}_mean"] = count / len(graded) if graded else None
    return numbers


def _token_usage(paid: Mapping[str, Sequence[Graded]], judge: str) -> Json:
    """What a judge read and wrote for all that ask it."""
    return {
        f"{'eval' if split == 'valid' else split}_{kind}": int(
            _counted([one.counts for one in graded], judge, kind)
        )
        for split, graded in paid.items()
        for kind in ("prompt_tokens", "completion_tokens", "cached_tokens")
    }


def _counted(counts: Iterable[Mapping[str, float]], judge: str, kind: str) -> float:
    return sum(one.get(f"judges/{judge}/{kind}", 0.0) for one in counts)
