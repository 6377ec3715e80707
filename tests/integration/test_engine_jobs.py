"""What the engine does to a job, as its owner sees it: bad ends, evaluations, kept adapters."""

import pytest
import tampers
from kept import Kept
from safetensors.torch import load_file
from trainer_runs import HALF_FAILING, Tamper, Trainers, bytes_of, rows_of_two_kinds
from trl.chat_template_utils import qwen3_chat_template

from jobs.registry import STARTER_FOLDER
from tests.tiny_models import FAMILIES, save_model
from worker.grpo.checksum import checksum

RUN = {
    "max_steps": 3,
    "batch_size": 2,
    "group_size": 4,
    "max_completion_tokens": 6,
    "eval_interval": 1,
    "eval_samples": 2,
    "eval_pass_k": 1,
    "checkpoint_interval": 1,
}


EACH_BUG = pytest.mark.parametrize(
    ("bug", "sentence"),
    [
        (tampers.sampler_without_the_adapter, "or with none"),
        (tampers.sampler_with_a_stale_adapter, "another adapter"),
        (tampers.sampler_with_a_merged_base, "base model's weights have changed"),
    ],
    ids=["adapter not attached", "stale adapter", "merged base"],
)


@EACH_BUG
def test_a_sampler_of_another_policy_ends_the_job_within_one_step(
    trainers: Trainers, bug: Tamper, sentence: str
) -> None:
    job_id = trainers.submit(**RUN)

    assert trainers.attempt(job_id, bug) == 0

    outcome = trainers.outcome()
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "sampler_desync")
    assert sentence in outcome["message"]
    assert len(trainers.rows(job_id)) <= 1
    assert trainers.checkpoints(job_id) == {}


@EACH_BUG
def test_a_bug_that_comes_with_a_resume_ends_the_job_before_its_next_update(
    trainers: Trainers, bug: Tamper, sentence: str
) -> None:
    job_id = trainers.submit(**RUN)
    assert trainers.attempt(job_id, tampers.KillIn("sampling", step=2, call=1)) < 0
    before = {step: bytes_of(at) for step, at in trainers.checkpoints(job_id).items()}
    assert before.keys() == {1}

    assert trainers.attempt(job_id, bug) == 0

    outcome = trainers.outcome()
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "sampler_desync")
    assert sentence in outcome["message"]
    after = {step: bytes_of(at) for step, at in trainers.checkpoints(job_id).items()}
    assert after == before
    assert [row["step"] for row in trainers.rows(job_id)] == [0, 1]


def test_a_state_that_cannot_be_taken_up_gives_way_to_the_one_before_it(
    trainers: Trainers,
) -> None:
    job_id = trainers.submit(**RUN)
    assert trainers.attempt(job_id, tampers.KillIn("sampling", step=3, call=1)) < 0

    assert trainers.attempt(job_id, tampers.StateOfAnotherRun(2)) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    said = trainers.events(job_id)
    [refused] = [one for one in said if "cannot be taken up" in one]
    assert "of step 2 cannot be taken up" in refused
    assert "is of another run" in refused
    assert "Resumed from the checkpoint of step 1" in said
    assert not any("starts again" in one for one in said)


@pytest.mark.on_both_stores
@pytest.mark.parametrize(
    ("harm", "name", "fault"),
    [
        ("truncated", "state/tensors.safetensors", "is damaged"),
        ("flipped", "adapter.tar", "is damaged"),
        ("deleted", "state/history.json", "is gone"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_newest_that_is_whole(
    trainers: Trainers, kept: Kept, harm: str, name: str, fault: str
) -> None:
    job_id = trainers.submit(**RUN)
    assert trainers.attempt(job_id, tampers.KillIn("sampling", step=3, call=1)) < 0
    harmed = f"{trainers.folders(job_id)[2]}/{name}"
    content = kept.read(harmed)
    match harm:
        case "truncated":
            kept.write(harmed, content[:-1])
        case "flipped":
            kept.write(harmed, content[:-1] + bytes([content[-1] ^ 1]))
        case "deleted":
            kept.delete(harmed)

    assert trainers.attempt(job_id) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    said = trainers.events(job_id)
    [refused] = [one for one in said if "cannot be taken up" in one]
    assert refused.startswith("The checkpoint ftckpt_")
    assert f"of step 2 cannot be taken up ({name} {fault}" in refused
    assert "Resumed from the checkpoint of step 1" in said
    assert [row["step"] for row in trainers.rows(job_id)] == [0, 1, 2, 3]


def test_a_job_without_a_state_to_take_up_says_that_it_starts_again(trainers: Trainers) -> None:
    job_id = trainers.submit(**RUN)
    assert trainers.attempt(job_id, tampers.KillIn("sampling", step=3, call=1)) < 0
    for adapter in trainers.checkpoints(job_id).values():
        state = adapter.parent / "state" / "tensors.safetensors"
        state.write_bytes(state.read_bytes()[:-9])

    assert trainers.attempt(job_id) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    said = trainers.events(job_id)
    assert sum("state/tensors.safetensors is damaged" in one for one in said) == 2
    assert sum("it starts again from the base model" in one for one in said) == 1
    assert [row["step"] for row in trainers.rows(job_id)] == [0, 1, 2, 3]
    assert len(trainers.events(job_id, "metrics")) == 4


@pytest.mark.parametrize("step", [1, 3])
def test_a_base_that_changes_in_a_step_ends_the_job(trainers: Trainers, step: int) -> None:
    job_id = trainers.submit(**RUN)

    assert trainers.attempt(job_id, tampers.BaseChangesIn(step)) == 0

    outcome = trainers.outcome()
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "sampler_desync")
    assert "base model's weights" in outcome["message"]


def test_updates_that_are_never_finite_end_the_job_with_their_evidence(trainers: Trainers) -> None:
    job_id = trainers.submit(**RUN | {"max_steps": 20, "eval_interval": 20})

    assert trainers.attempt(job_id, tampers.gradients_that_are_infinite) == 0

    outcome = trainers.outcome()
    assert (outcome["outcome"], outcome["reason"]) == ("failed", "non_finite_gradients")
    assert "4 updates came out NaN or infinite" in outcome["message"]
    assert "gradient norms [nan] at learning_rate" in outcome["message"]
    skipped = [row["updates/num_nonfinite"] for row in trainers.rows(job_id)[1:]]
    assert skipped == sorted(skipped)
    assert max(skipped) == 3  # the budget


def test_the_base_is_the_same_to_the_bit_after_a_job(trainers: Trainers) -> None:
    weights = STARTER_FOLDER / "model.safetensors"
    before = weights.read_bytes()
    job_id = trainers.submit(**RUN)

    assert trainers.attempt(job_id) == 0

    assert weights.read_bytes() == before
    names = load_file(trainers.checkpoints(job_id)[3] / "adapter_model.safetensors")
    assert all("lora_" in name for name in names), "nothing of the base is in the adapter"
    assert checksum(names) != checksum(
        load_file(trainers.checkpoints(job_id)[2] / "adapter_model.safetensors")
    )


def test_the_three_best_adapters_and_the_newest_are_kept(trainers: Trainers) -> None:
    job_id = trainers.submit(**RUN | {"max_steps": 8, "eval_samples": 8})

    assert trainers.attempt(job_id) == 0

    rewards = {row["step"]: row["valid_reward_mean"] for row in trainers.rows(job_id)[1:]}
    best = sorted(rewards, key=lambda step: (rewards[step], step), reverse=True)[:3]
    kept = trainers.checkpoints(job_id)
    # Of the newest two the training states are there, too: a resume may need the second.
    assert set(kept) == {*best, 8, 7}
    for adapter in kept.values():
        assert len(bytes_of(adapter)) == 2
    folders = trainers.settings.artifacts_dir / "jobs" / job_id / "attempt-1"
    assert {int(folder.name.removeprefix("step-")) for folder in folders.iterdir()} == set(kept)


def test_a_job_that_gets_no_better_stops_early_and_says_so(trainers: Trainers) -> None:
    constant = {"type": "contains", "input": "x", "values": ["x"]}
    asked = RUN | {"max_steps": 50, "early_stopping_patience": 2}
    job_id = trainers.submit(grader=constant, **asked)

    assert trainers.attempt(job_id) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    assert [row["step"] for row in trainers.rows(job_id)] == [0, 1, 2]
    events = trainers.client.get(f"/v1/fine_tuning/jobs/{job_id}/events").json()["data"]
    assert any("Stopped early after step 2" in event["message"] for event in events)
    assert 2 in trainers.checkpoints(job_id)


def test_evaluations_are_in_the_rows(trainers: Trainers) -> None:
    job_id = trainers.submit(**RUN | {"eval_pass_k": 3, "eval_samples": 8})

    assert trainers.attempt(job_id) == 0

    first, *later = trainers.rows(job_id)
    assert {"eval_reward", "eval_pass@1", "eval_pass@3", "eval_best@3"} <= first.keys()
    assert not any("lift" in name for name in first)
    for row in later:
        assert row["eval_lift/low"] <= row["eval_lift/mean"] <= row["eval_lift/high"]
        assert row["eval_lift/mean"] == pytest.approx(row["eval_reward"] - first["eval_reward"])
        assert "eval_pass@3_lift/mean" in row
        assert row["valid_reward_mean"] == row["full_valid_mean_reward"] == row["eval_reward"]


def test_dynamic_sampling_does_not_hide_failed_grades_from_the_budget(trainers: Trainers) -> None:
    asked = RUN | {"dynamic_sampling": True, "max_refills": 9, "max_grader_error_ratio": 0.2}
    asked |= {"max_steps": 8, "batch_size": 4, "eval_interval": 8}
    job_id = trainers.submit(grader=HALF_FAILING, rows=rows_of_two_kinds(), **asked)

    assert trainers.attempt(job_id) == 0

    rows = trainers.rows(job_id)[1:]
    num_drawn = [round(row["groups/refill_ratio"] * 4) for row in rows]
    num_failed = sum(row["groups/dead_ungraded"] for row in rows)
    for row, drawn in zip(rows, num_drawn, strict=True):
        assert row["groups/effective"] == 4, "nothing that is trained on has failed"
        assert row["graders/error_ratio"] == pytest.approx(row["groups/dead_ungraded"] / drawn)
    said = trainers.outcome()
    assert (said["outcome"], said["reason"]) == ("failed", "grader_failed")
    assert f"failed on {4 * num_failed} of the last {4 * sum(num_drawn)} comp" in said["message"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_runs_a_job(trainers: Trainers, name: str) -> None:
    family, is_tied = FAMILIES[name]
    folder = trainers.settings.model_roots[0] / name
    save_model(folder, family=family, is_tied=is_tied)
    weights = (folder / "model.safetensors").read_bytes()
    # Of random answers, those that are nearer to a sentence.
    similar = {
        "type": "text_similarity",
        "input": "{{sample.output_text}}",
        "reference": "The sum of a and b is 5.",
        "evaluation_metric": "fuzzy_match",
    }
    job_id = trainers.submit(model=str(folder), grader=similar, **RUN)

    assert trainers.attempt(job_id) == 0

    assert trainers.outcome()["outcome"] == "succeeded"
    first = trainers.rows(job_id)[1]
    assert first["grad_norm"] > 0
    assert first["sampling/sampling_logp_difference/max"] < 1e-4
    assert (folder / "model.safetensors").read_bytes() == weights


def test_a_rows_tools_reach_the_model_and_its_calls_reach_the_owner(trainers: Trainers) -> None:
    folder = trainers.settings.model_roots[0] / "caller"
    save_model(folder, template=qwen3_chat_template)
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    row = {"messages": [{"role": "user", "content": "2 + 3"}], "answer": "add"}
    # A random model calls nothing: what is graded is whether it does, which is a number at last.
    grader = {
        "type": "string_check",
        "input": "{{sample.output_tools}}",
        "reference": "[]",
        "operation": "eq",
    }
    asked = RUN | {"max_steps": 1}
    plain = trainers.submit(model=str(folder), grader=grader, rows=[row] * 4, **asked)
    assert trainers.attempt(plain) == 0
    job_id = trainers.submit(
        model=str(folder), grader=grader, rows=[{**row, "tools": [tool]}] * 4, **asked
    )
    assert trainers.attempt(job_id) == 0

    longest = [trainers.resolved(one)["longest_prompt_tokens"] for one in (plain, job_id)]
    assert longest[1] > longest[0] + 100, "the tools are in the prompt"
    assert trainers.rows(job_id)[1]["reward"] == 1.0
    samples = f"/v1/fine_tuning/jobs/{job_id}/samples?step=1"
    for sample in trainers.client.get(samples).json()["data"]:
        assert sample["output_tools"] == []
        assert "tools" not in sample["item"]
