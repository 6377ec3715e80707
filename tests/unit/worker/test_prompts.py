"""Rows to ids and back on tokenizers that trip trainers: pad == eos, several EOS, BOS, UTF-8.

The chat templates are those of real models, as TRL carries them.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken, LlamaForCausalLM
from trl import chat_template_utils as templates

from jobs.datasets import Row
from jobs.errors import JobFailure
from jobs.graders import parse_grader
from jobs.registry import STARTER_FOLDER
from tests.tiny_models import save_model
from worker.grading import Grading
from worker.grpo.config import GrpoConfig
from worker.grpo.hf_sampler import HfSampler
from worker.grpo.policy import LoraSettings, Policy
from worker.grpo.trainer import Trainer
from worker.grpo.types import Prompt, Rollout
from worker.prompts import THINK_OPEN, PromptRenderer
from worker.validate import _check_room

USER = [{"role": "user", "content": "What is 2 + 3?"}]
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
# Some random answers are nearer to it than others.
SIMILAR = {
    "type": "text_similarity",
    "input": "{{sample.output_text}}",
    "reference": "The sum of a and b is 5.",
    "evaluation_metric": "fuzzy_match",
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'


def rollouts_of_a_step(folder: Path, *, sampler_eos: list[int] | None = None) -> list[Rollout]:
    """What a step of a run in this folder's words draws and trains on."""
    renderer = PromptRenderer(folder)
    policy = Policy.load(folder, lora=LoraSettings(rank=4, alpha=8))
    grading = Grading(parse_grader(SIMILAR), renderer)
    contents = ["2 + 3", "What is the sum of 40 and 2?", "7 - 1 ="]
    rows = [Row(i, [{"role": "user", "content": text}], {}) for i, text in enumerate(contents)]
    trainer = Trainer(
        policy,
        HfSampler(policy, eos_ids=sampler_eos or policy.eos_ids + renderer.eos_ids),
        GrpoConfig(
            total_steps=1,
            batch_size=3,
            group_size=4,
            max_completion_tokens=12,
            learning_rate=1e-2,
            loss_type="grpo",
        ),
        [Prompt(row.line, renderer.ids(row.messages), row) for row in rows],
        [],
        grade=grading.submit,
    )
    (result,) = list(trainer.steps())
    grading.close()
    assert result.metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert result.metrics["grad_norm"] > 0
    return [rollout for group in result.groups for rollout in group.rollouts]


def assert_ends_by_position(rollouts: list[Rollout], ends: set[int]) -> None:
    """The first EOS ends a completion and is trained; nothing after it is there."""
    for rollout in rollouts:
        *before, last = rollout.completion_ids
        assert not ends & set(before)
        assert rollout.finish_reason == ("stop" if last in ends else "length")
        assert rollout.loss_mask == [True] * len(rollout.completion_ids)


def test_a_pad_that_is_the_eos_is_trained_where_it_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = save_model(tmp_path, pad_token="<|im_end|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    # Many ends, so that some answers stop: the pad's id among them.
    ends = [tokenizer.eos_token_id, *range(100, 140)]
    rollouts = rollouts_of_a_step(tmp_path, sampler_eos=ends)
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    assert_ends_by_position(rollouts, set(ends))


def test_the_pads_id_changes_nothing(tmp_path: Path) -> None:
    """Masks come from lengths: whatever the pad is, the same tokens are drawn and trained."""
    save_model(tmp_path / "own")
    save_model(tmp_path / "eos", pad_token="<|im_end|>")
    own, eos = (rollouts_of_a_step(tmp_path / name) for name in ("own", "eos"))
    assert own == eos


def test_each_of_several_eos_ids_ends_an_answer(tmp_path: Path) -> None:
    tokenizer = save_model(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    model.generation_config.eos_token_id = list(range(100, 180))
    model.save_pretrained(tmp_path)
    ends = {*range(100, 180), tokenizer.eos_token_id}
    rollouts = rollouts_of_a_step(tmp_path)
    assert_ends_by_position(rollouts, ends)
    assert len({r.completion_ids[-1] for r in rollouts if r.finish_reason == "stop"}) > 1


def test_the_tokenizers_eos_counts_where_the_models_config_names_another(tmp_path: Path) -> None:
    """A base model's config ends a document; the chat template ends a turn."""
    tokenizer = save_model(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path)
    model.generation_config.eos_token_id = model.config.eos_token_id = 5
    model.save_pretrained(tmp_path)
    policy, renderer = Policy.load(tmp_path), PromptRenderer(tmp_path)
    assert policy.eos_ids + renderer.eos_ids == [5, tokenizer.eos_token_id]


def test_without_a_bos_none_is_put_before_the_prompt(tmp_path: Path) -> None:
    tokenizer = save_model(tmp_path)
    assert tokenizer.bos_token_id is None
    ids = PromptRenderer(tmp_path).ids(USER)
    assert tokenizer.decode(ids).startswith("<|im_start|>user\n")
    rollouts_of_a_step(tmp_path)


def test_a_bos_of_the_template_and_one_of_the_tokenizer_are_one(tmp_path: Path) -> None:
    tokenizer = save_model(tmp_path)
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", bos)]
    )
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer("x")["input_ids"][0] == bos
    ids = PromptRenderer(tmp_path).ids(USER)
    assert ids.count(bos) == 1
    assert ids[0] == bos


starter = PromptRenderer(STARTER_FOLDER)


@settings(deadline=None, max_examples=200, database=None)
@given(st.text(min_size=1) | st.just("a<|im_end|>b<|pad|>\N{GRINNING FACE}"), st.data())
def test_characters_cut_between_their_tokens_are_text_and_never_ids_again(
    text: str, data: st.DataObject
) -> None:
    """An emoji is several tokens: a limit in the middle of it must neither fail nor add ids."""
    assume(THINK_OPEN not in text)  # reasoning is set apart, however far it got
    ids = starter.tokenizer(text)["input_ids"]
    cut = ids[: data.draw(st.integers(1, len(ids)))]
    whole, part = (starter.completion([], list(one), is_cut=True).output_text for one in (ids, cut))
    assert whole.encode("utf-8", "replace")
    kept = part.rstrip("\N{REPLACEMENT CHARACTER}")
    assert whole.startswith(kept)


def test_what_is_trained_are_the_drawn_ids_whatever_they_decode_to(tmp_path: Path) -> None:
    save_model(tmp_path)
    renderer = PromptRenderer(tmp_path)
    drawn = rollouts_of_a_step(tmp_path)
    again = [
        renderer.tokenizer(renderer.completion([], r.completion_ids, is_cut=True).output_text)
        for r in drawn
    ]
    # Encoding the text would have given other ids: that is why nobody does.
    pairs = zip(drawn, again, strict=True)
    assert any(r.completion_ids != encoded["input_ids"] for r, encoded in pairs)


REAL = {
    "qwen2.5": templates.qwen2_5_chat_template,
    "qwen3": templates.qwen3_chat_template,
    "llama3.1": templates.llama3_1_chat_template,
}


@pytest.mark.parametrize("template", REAL.values(), ids=REAL.keys())
def test_tools_reach_the_template(tmp_path: Path, template: str) -> None:
    save_model(tmp_path, template=template)
    renderer = PromptRenderer(tmp_path)
    text = renderer.tokenizer.decode(renderer.ids(USER, [ADD]))
    assert '"name": "add"' in text
    assert "Adds two numbers." in text
    assert "Adds" not in renderer.tokenizer.decode(renderer.ids(USER))


@pytest.mark.parametrize("template", REAL.values(), ids=REAL.keys())
def test_earlier_calls_and_their_answers_reach_the_template(tmp_path: Path, template: str) -> None:
    save_model(tmp_path, template=template)
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "5", "tool_call_id": "c1"},
    ]
    renderer = PromptRenderer(tmp_path)
    text = renderer.tokenizer.decode(renderer.ids(messages, [ADD]))
    assert '{"a": 2}' in text, "an object, not a string of JSON"


def test_a_template_without_a_place_for_tools_refuses_them() -> None:
    with pytest.raises(ValueError, match="has no place for 'tools'"):
        starter.ids(USER, [ADD])
    assert starter.ids(USER, []) == starter.ids(USER)


def completion(text: str, *, has_tools: bool = True, prompt: str = "") -> Any:
    ids, before = (starter.tokenizer(one)["input_ids"] for one in (text, prompt))
    return starter.completion(before, ids, is_cut=False, tools=[ADD] if has_tools else None)


def test_calls_are_apart_from_the_answer_and_from_the_reasoning() -> None:
    said = completion(f"<think>Both {CALL}?</think>Adding.\n{CALL}<|im_end|>")
    assert said.output_text == "Adding."
    assert [call["function"]["name"] for call in said.tool_calls] == ["add"]
    assert said.tool_calls[0]["function"]["arguments"] == '{"a":2,"b":3}'
    assert CALL in said.reasoning_text
    assert said.is_complete


def test_a_row_without_tools_has_an_answer_and_no_calls() -> None:
    said = completion(CALL + "<|im_end|>", has_tools=False)
    assert (said.output_text, said.tool_calls) == (CALL, [])


def test_special_tokens_are_left_out_with_tools_and_without() -> None:
    for has_tools, text in itertools.product((True, False), ("Five.<|im_end|>", "Five.")):
        assert completion(text, has_tools=has_tools).output_text == "Five."


def test_special_tokens_without_a_role_are_left_out_too() -> None:
    """The tokenizer's `all_special_tokens` does not name them, and decoding leaves them out."""
    renderer = PromptRenderer(STARTER_FOLDER)
    renderer.tokenizer.add_tokens([AddedToken("<|note|>", special=True)])
    assert "<|note|>" not in renderer.tokenizer.all_special_tokens
    ids = renderer.tokenizer("<|note|>Five.<|im_end|><|note|><|im_end|>")["input_ids"]
    for tools in ([ADD], None):
        assert renderer.completion([], ids, is_cut=False, tools=tools).output_text == "Five."


def test_graders_read_the_calls() -> None:
    grader = parse_grader(
        {
            "type": "string_check",
            "input": "{{sample.output_tools[0].function.name}}",
            "reference": "{{item.tool}}",
            "operation": "eq",
        }
    )
    grading = Grading(grader, starter)
    rewards = {}
    for text in (CALL, CALL.replace("add", "sub"), "Five."):
        ids = starter.tokenizer(text)["input_ids"]
        rollout = Rollout(0, 0, ids, [0.0] * len(ids), "stop", [True] * len(ids))
        row = Row(1, USER, {"tool": "add"}, [ADD])
        graded = grading.submit(Prompt(0, [1], row), rollout).result()
        rewards[text] = graded.reward
    grading.close()
    assert list(rewards.values()) == [1.0, 0.0, None]
    assert graded.errors == {"invalid_variable_error": 1}


def test_the_context_ends_where_the_rotation_would_change(tmp_path: Path) -> None:
    save_model(tmp_path)
    assert (PromptRenderer(tmp_path).context_length, PromptRenderer(tmp_path).context_note) == (
        1024,
        "",
    )
    config = LlamaForCausalLM.from_pretrained(tmp_path).config
    config.rope_parameters = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 256,
    }
    config.save_pretrained(tmp_path)
    bounded = PromptRenderer(tmp_path)
    assert bounded.context_length == 256
    assert "rotary embedding changes" in bounded.context_note
    with pytest.raises(JobFailure, match=r"context of 256 \(beyond it .*: 56 tokens of completion"):
        _check_room(57, 200, bounded)
