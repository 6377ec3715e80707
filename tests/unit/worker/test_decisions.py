"""How much is computed at a time, from the forecast and what the device has left."""

from dataclasses import asdict
from typing import Any

import pytest
from transformers import Qwen3Config

from worker.decisions import SHARE, sizes
from worker.forecast import Shape, draw_bytes, forecast, pass_bytes
from worker.plan import CUDA_MICRO_BATCH_TOKENS

GIB = 1 << 30
PROMPT, COMPLETION = 128, 512
ROW = PROMPT + COMPLETION
ASKED: dict[str, Any] = {
    "lora": {"rank": 16, "target_modules": "all-linear"},
    "batch_size": 16,
    "group_size": 8,
    "max_completion_tokens": COMPLETION,
}


@pytest.fixture(scope="module")
def memories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The forecasts of a model of about 0.6 B parameters."""
    folder = tmp_path_factory.mktemp("model")
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
    )
    config.save_pretrained(folder)
    shape = Shape(folder)
    return {
        device: asdict(
            forecast(shape, ASKED, longest_prompt_tokens=PROMPT, context_length=4096, device=device)
        )
        for device in ("cpu", "cuda")
    }


def chosen(memory: dict[str, Any], free_bytes: int, **asked: Any) -> tuple[int, int]:
    found = sizes(memory, {**ASKED, **asked}, longest_prompt_tokens=PROMPT, free_bytes=free_bytes)
    return found["micro_batch_tokens"], found["cache_tokens"]


def test_with_room_all_rows_are_sampled_at_once(memories: dict[str, dict[str, Any]]) -> None:
    all_rows = 16 * 8 * ROW
    assert chosen(memories["cuda"], 70 * GIB) == (CUDA_MICRO_BATCH_TOKENS, max(
        all_rows, (16 * GIB) // memories["cuda"]["cache_token_bytes"]
    ))  # fmt: skip
    # On a processor a pass is bound by time long before it is by memory.
    passed, cached = chosen(memories["cpu"], 100 * GIB)
    assert (passed, cached) == (ROW, all_rows)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("gib", [3, 5, 8, 12, 20])
def test_what_is_chosen_fits(device: str, gib: int, memories: dict[str, dict[str, Any]]) -> None:
    memory = memories[device]
    passed, cached = chosen(memory, gib * GIB)
    sampling, training = cached * memory["cache_token_bytes"], pass_bytes(memory, passed)
    sampling += draw_bytes(memory, cached // ROW)
    peak = max(sampling, training) if device == "cuda" else sampling + training
    held = memory["adapter"] + memory["sums"] + memory["copies"]
    assert held + peak <= gib * GIB * SHARE or (passed, cached) == (
        ROW,
        ROW,
    )
    more_passed, more_cached = chosen(memory, 2 * gib * GIB)
    assert more_passed >= passed
    assert more_cached >= cached


def test_without_room_it_is_one_sequence_at_a_time(memories: dict[str, dict[str, Any]]) -> None:
    for memory in memories.values():
        assert chosen(memory, GIB // 4) == (ROW, ROW)
        assert memory["least"] < memory["total"]
        fixed = memory["weights"] + memory["adapter"] + memory["runtime"]
        assert fixed < memory["least"] < fixed + 4 * GIB


def test_a_job_may_use_more_than_its_own_rows_in_evaluations(
    memories: dict[str, dict[str, Any]],
) -> None:
    usual = (2 * GIB) // memories["cpu"]["cache_token_bytes"]
    assert chosen(memories["cpu"], 100 * GIB, batch_size=1, group_size=2)[1] == usual
