"""The policy: loaded safely, never merged, and saved so that plain PEFT reads it back."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.unit.grpo.tiny import disturb, tiny_llama
from worker.grpo.checksum import PRIME, SMALL, checksum
from worker.grpo.errors import InvalidCheckpoint, UnsupportedModel
from worker.grpo.policy import LoraSettings, Policy

IDS = torch.tensor([[5, 6, 7, 8]])
LORA = LoraSettings(rank=4, alpha=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model = tiny_llama()
    model.generation_config.eos_token_id = [1, 9]
    model.save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def test_a_fresh_policy_is_its_base(folder: Path) -> None:
    policy = Policy.load(folder, lora=LORA)
    base = AutoModelForCausalLM.from_pretrained(folder)
    assert logits(policy.model).equal(logits(base))
    assert policy.eos_ids == [1, 9]
    assert policy.dtype == torch.float32


def test_the_same_seed_gives_the_same_adapter(folder: Path) -> None:
    torch.manual_seed(99)
    expected = torch.rand(1)
    torch.manual_seed(99)
    prints = [Policy.load(folder, lora=LORA, seed=s).adapter_fingerprint() for s in (3, 3, 4)]
    assert prints[0] == prints[1] != prints[2]
    assert torch.rand(1).equal(expected), "loading must not touch the caller's random state"


def test_bf16_base_has_an_fp32_adapter(folder: Path) -> None:
    policy = Policy.load(folder, lora=LORA, dtype=torch.bfloat16)
    assert policy.dtype == torch.bfloat16
    assert {p.dtype for p in policy.trainable.values()} == {torch.float32}


def test_only_the_adapter_is_trainable_and_it_is_on_every_linear_layer(folder: Path) -> None:
    policy = Policy.load(folder, lora=LORA)
    layers = {name.split(".")[-4] for name in policy.trainable}
    assert layers == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert all("lora_" in name for name in policy.trainable)


# peft 0.21 asks transformers by a name that 5.23 calls deprecated.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_plain_peft_reads_what_is_saved(folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(folder, lora=LORA)
    disturb(policy, 0.1)
    policy.save_adapter(tmp_path, base_name="org/base", revision="abc123")

    base = AutoModelForCausalLM.from_pretrained(folder)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(logits(loaded), logits(policy.model), rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    assert config["revision"] == "abc123"
    assert config["r"] == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_the_same_weights_are_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        policy = Policy.load(folder, lora=LORA)
        policy.save_adapter(tmp_path / name, base_name="base", revision=None)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        one, two = (tmp_path / name / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_an_adapter_can_be_loaded_back(folder: Path, tmp_path: Path) -> None:
    policy = Policy.load(folder, lora=LORA)
    disturb(policy, 0.1)
    policy.save_adapter(tmp_path, base_name="base", revision=None)
    other = Policy.load(folder, lora=LORA, seed=1)
    other.load_adapter(tmp_path)
    assert other.adapter_fingerprint() == policy.adapter_fingerprint()
    with pytest.raises(InvalidCheckpoint, match="do not fit"):
        Policy.load(folder, lora=LoraSettings(rank=2, alpha=4)).load_adapter(tmp_path)


def test_the_reference_is_the_base(folder: Path) -> None:
    policy = Policy.load(folder, lora=LORA)
    disturb(policy, 0.1)
    base = AutoModelForCausalLM.from_pretrained(folder)
    with policy.reference():
        assert logits(policy.model).equal(logits(base))
    assert not logits(policy.model).equal(logits(base))
    assert all(p.requires_grad for p in policy.trainable.values())
    assert policy.trainable


def test_a_folder_without_safetensors_is_refused(folder: Path, tmp_path: Path) -> None:
    torch.save(tiny_llama().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UnsupportedModel, match="cannot be loaded"):
        Policy.load(tmp_path)


def test_an_architecture_that_needs_remote_code_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match="cannot be loaded"):
        Policy.load(tmp_path)


def test_a_checksum_is_that_of_each_tensor_however_many_there_are() -> None:
    """It is kept with a run's state, and compared when that goes on, maybe in a later release."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{kind}{number}": torch.randn(size, 3, generator=generator).T.to(dtype)
        for number, size in enumerate([*range(70), SMALL // 3, SMALL // 3 + 1])
        for kind, dtype in (("a", torch.float32), ("b", torch.bfloat16))
    }
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        size = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[tensor.dtype]
        bits = tensor.contiguous().flatten().view(size).tolist()
        fold = sum(bit * (i * PRIME + 1) for i, bit in enumerate(bits))
        fold = (fold + 2**63) % 2**64 - 2**63
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {fold}\n".encode())
    assert checksum(tensors) == digest.hexdigest()


def test_a_checksum_sees_one_bit_a_swap_and_a_name() -> None:
    weights = torch.randn(1000)
    changed = weights.clone()
    changed[17] = torch.nextafter(changed[17], torch.tensor(9.0))
    swapped = weights.clone()
    swapped[[3, 4]] = weights[[4, 3]]
    sums = {
        checksum({"a": weights}),
        checksum({"a": changed}),
        checksum({"a": swapped}),
        checksum({"b": weights}),
        checksum({"a": weights.reshape(10, 100)}),
        checksum({"a": weights.bfloat16()}),
    }
    assert len(sums) == 6
    assert checksum({"a": weights.clone()}) == checksum({"a": weights})
