"""What a trainer says of its GPU, beside its progress."""

import pytest
import torch

from worker.gpu_memory import gpu_memory


def test_a_trainer_on_the_cpu_says_nothing_and_starts_no_cuda() -> None:
    assert gpu_memory() is None
    assert not torch.cuda.is_initialized()


def test_what_the_driver_counts_under_the_slots_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (30, 80))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert gpu_memory() == {"device": "3", "used_bytes": 50, "total_bytes": 80}
