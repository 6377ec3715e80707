"""The body of a job: what is taken, and the sentence for what is not.

Refusals that reach HTTP are held in tests/unit/service/test_jobs_routes.py.
"""

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.errors import BadRequest, GraderInvalid, UnknownField
from jobs.hyperparameters import AUTO, FOREIGN_NAMES, Hyperparameters, Lora
from jobs.spec import JobSpec, component_weights, parse_spec

GRADER = {"type": "length", "unit": "words", "max": 3}


def body(hyperparameters: Any = None, **values: Any) -> dict[str, Any]:
    reinforcement = {"grader": GRADER, "hyperparameters": hyperparameters}
    return {
        "model": "honed/starter",
        "training_file": "file-a",
        "method": {"type": "reinforcement", "reinforcement": reinforcement},
        **values,
    }


def test_defaults() -> None:
    spec = parse_spec(body())
    assert spec.hyperparameters == Hyperparameters()
    assert spec.hyperparameters.group_size == AUTO
    assert spec.hyperparameters.loss_type == "dapo"
    assert (spec.hyperparameters.clip_eps_low, spec.hyperparameters.clip_eps_high) == (0.2, 0.28)
    assert spec.hyperparameters.lora == Lora(rank=16, alpha=32)
    assert (spec.validation_file, spec.suffix, spec.seed, spec.metadata) == (None,) * 4


def test_what_is_stored_parses_to_the_same() -> None:
    spec = parse_spec(body({"group_size": 4, "lora": {"rank": 8}}, seed=3, metadata={"a": "b"}))
    assert JobSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.grader().dump()["type"] == "length"


def test_nulls_and_empty_leftovers_of_openais_body_are_taken() -> None:
    nulls = {"suffix": None, "seed": None, "metadata": None, "validation_file": None}
    spec = parse_spec(body({"n_epochs": None, "lora": None}, integrations=[], **nulls))
    assert spec.hyperparameters.n_epochs == AUTO
    assert parse_spec({**body(integrations=None), "hyperparameters": {}}) == spec


@pytest.mark.parametrize("name", sorted(set(FOREIGN_NAMES) - {"rollout.n"}))
def test_other_trainers_names_are_answered_with_ours(name: str) -> None:
    with pytest.raises(UnknownField) as caught:
        parse_spec(body({name: 8}))
    ours = FOREIGN_NAMES[name]
    assert caught.value.message.endswith(f"`{name}` is `{ours}` here.")
    assert caught.value.param == f"method.reinforcement.hyperparameters.{name}"
    first, _, nested = ours.partition(".")
    assert first in Hyperparameters.model_fields
    assert not nested or nested in Lora.model_fields


def test_no_name_of_ours_is_called_foreign() -> None:
    assert not set(FOREIGN_NAMES) & set(Hyperparameters.model_fields)


@pytest.mark.parametrize("field", sorted(Hyperparameters.model_fields))
def test_every_hyperparameter_refuses_a_wrong_type_by_name(field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_spec(body({field: {"a": [1]}}))
    path = f"method.reinforcement.hyperparameters.{field}"
    assert caught.value.param is not None
    assert caught.value.param.startswith(path)
    assert field in caught.value.message


@pytest.mark.parametrize(
    "field",
    [name for name, field in Hyperparameters.model_fields.items() if field.default == AUTO],
)
def test_auto_is_taken_wherever_it_is_the_default(field: str) -> None:
    assert getattr(parse_spec(body({field: "auto"})).hyperparameters, field) == AUTO


@pytest.mark.parametrize(
    "field", ["temperature", "kl_coef", "max_grad_norm", "learning_rate", "clip_eps_high"]
)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1.0])
def test_numbers_that_are_none_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate({field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eval_interval", 5),
        ("eval_samples", 5),
        ("eval_pass_k", 2),
        ("eval_pass_threshold", 0.9),
        ("early_stopping_patience", 3),
    ],
)
def test_evaluating_needs_rows(field: str, value: float) -> None:
    with pytest.raises(BadRequest, match=f"{field} is set but there is no validation_file"):
        parse_spec(body({field: value}))
    asked = parse_spec(body({field: value}, validation_file="file-b")).hyperparameters
    assert getattr(asked, field) == value


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eval_pass_k", 0),
        ("eval_pass_k", 65),
        ("eval_pass_k", 1.5),
        ("eval_pass_threshold", float("nan")),
        ("early_stopping_patience", 0),
        ("early_stopping_patience", True),
    ],
)
def test_numbers_of_evaluations_that_are_none_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Hyperparameters.model_validate({field: value})


def test_a_message_stays_short_whatever_was_sent() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_spec(body(suffix="x" * 100_000))
    assert len(caught.value.message) < 200


def test_a_graders_fault_is_placed_in_the_body() -> None:
    broken = body()
    broken["method"]["reinforcement"]["grader"] = {"type": "length", "unit": "miles", "max": 1}
    with pytest.raises(GraderInvalid) as caught:
        parse_spec(broken)
    assert caught.value.param == "method.reinforcement.grader.unit"
    assert caught.value.message.startswith("The grader cannot be used: unit: ")
    assert caught.value.message.endswith(".")


def test_several_faults_name_the_misspelt_key_first() -> None:
    with pytest.raises(UnknownField) as caught:
        parse_spec(body({"batch_size": "x", "group_sise": 8}))
    assert "Did you mean `group_size`?" in caught.value.message


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"delta": 1.2}, "delta (1.2) is not above 1 + clip_eps_high (1.28)"),
        ({"delta": 4, "loss_type": "sapo"}, "sapo is none: leave delta out"),
        ({"sampler_ratio_min": 1}, "sampler_ratio_min' is 1: Input should be less than 1"),
        ({"sampler_ratio_max": 0.5}, "sampler_ratio_max' is 0.5"),
        ({"overlong_buffer_tokens": 8, "max_completion_tokens": 8}, "(8) is not below max_comp"),
        ({"max_refills": 0}, "max_refills' is 0"),
        ({"sampler_check_interval": 0}, "sampler_check_interval' is 0"),
        ({"sapo_temperature_neg": 0}, "sapo_temperature_neg' is 0"),
        ({"kl_estimator": "k4"}, "kl_estimator' is 'k4': Input should be 'k1', 'k2' or 'k3'"),
        ({"dynamic_sampling": "yes"}, "dynamic_sampling' is 'yes'"),
    ],
)
def test_the_engines_knobs_are_refused_by_name(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_spec(body(asked))
    assert sentence in caught.value.message


def with_formula(formula: str) -> dict[str, Any]:
    sent = body({"reward_aggregation": "normalize_then_sum"})
    long = {"type": "length", "unit": "words", "min": 9}
    sent["method"]["reinforcement"]["grader"] = {
        "type": "multi",
        "graders": {"short": GRADER, "long": long},
        "calculate_output": formula,
    }
    return sent


def test_rewards_normalised_by_themselves_need_a_weighted_sum() -> None:
    assert component_weights(parse_spec(with_formula("short - 2 * long")).grader()) == {
        "short": 1,
        "long": -2,
    }
    single = body({"reward_aggregation": "normalize_then_sum"})
    for sent in (with_formula("short * long"), with_formula("1"), single):
        with pytest.raises(BadRequest, match="calculate_output is a weighted sum") as caught:
            parse_spec(sent)
        assert str(caught.value.param).endswith("hyperparameters.reward_aggregation")
    sent = with_formula("short + long")
    sent["method"]["reinforcement"]["hyperparameters"]["advantage_scale"] = "none"
    with pytest.raises(BadRequest, match="leave advantage_scale at 'group'"):
        parse_spec(sent)


def test_no_grader_takes_the_name_of_the_penalty() -> None:
    sent = with_formula("short + long")
    grader = sent["method"]["reinforcement"]["grader"]
    grader["graders"]["overlong_penalty"] = GRADER
    with pytest.raises(BadRequest, match="may not be called 'overlong_penalty'"):
        parse_spec(sent)


def test_openais_older_place_for_three_numbers() -> None:
    older = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": None}
    spec = parse_spec({**body({"batch_size": 4}), "hyperparameters": older})
    asked = spec.hyperparameters
    assert (asked.n_epochs, asked.batch_size, asked.learning_rate_multiplier) == (3, 4, AUTO)
    assert parse_spec({**body({"n_epochs": 3}), "hyperparameters": {"n_epochs": 3}})
    alone = parse_spec({**body(), "hyperparameters": {"batch_size": 2}})
    assert alone.hyperparameters.batch_size == 2


def test_a_schema_too_deep_to_check_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(450):
        schema = {"not": schema}
    sent = body()
    form = {"type": "json_schema", "name": "n", "schema": schema}
    sent["method"]["reinforcement"]["response_format"] = form
    with pytest.raises(BadRequest, match="nested too deeply"):
        parse_spec(sent)


def test_the_form_of_answers_in_both_spellings() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    nested = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    flat = {"type": "json_schema", "name": "n", "strict": True, "schema": schema}
    sent = body()
    specs = []
    for form in (nested, flat, None):
        sent["method"]["reinforcement"]["response_format"] = form
        specs.append(parse_spec(sent))
    assert specs[0] == specs[1]
    stored = specs[0].model_dump(mode="json")
    kept = stored["method"]["reinforcement"]["response_format"]
    assert kept == nested
    assert JobSpec.model_validate(stored) == specs[0]
    assert specs[2].method.reinforcement.response_format is None
