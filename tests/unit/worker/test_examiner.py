"""The self-test of a device: a sound one passes it, each kind of fault fails it by name."""

import json

import pytest
import torch
from torch import Tensor

from worker import examiner

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examiner, "CPU_BYTES", examiner.MIB)


def verdicts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, dict[str, bool]]:
    """The exit code, and what was said of each check; all are made whatever fails."""
    monkeypatch.setattr(examiner, "die_with_parent", lambda: None)
    monkeypatch.setattr("sys.argv", ["examiner", "cpu"])
    code = examiner.main()
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    begun = [one["check"] for one in said if one["passed"] is None]
    ended = {one["check"]: one["passed"] for one in said if one["passed"] is not None}
    assert begun == [*ended]
    return code, ended


def test_a_sound_device_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = verdicts(monkeypatch, capsys)
    assert (code, {*found.values()}) == (0, {True})
    assert len(found) == 5


def test_memory_that_forgets_a_bit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    written = torch.empty

    class Forgetful:
        """A bit of one word is always set."""

        def __init__(self, held: Tensor) -> None:
            self.held = held

        def __setitem__(self, place: slice, values: Tensor) -> None:
            self.held[place] = values
            self.held[1000] |= 1 << 17

        def __getitem__(self, place: slice) -> Tensor:
            return self.held[place]

    monkeypatch.setattr(torch, "empty", lambda *a, **k: Forgetful(written(*a, **k)))
    with pytest.raises(examiner.Wrong, match="1 words of 8 bytes from byte 0 on"):
        examiner.check_memory(CPU)


@pytest.mark.parametrize("dtype", examiner.DTYPES)
def test_one_wrong_number_in_one_product_is_found(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    matmul, calls = Tensor.__matmul__, []

    def flawed(left: Tensor, right: Tensor) -> Tensor:
        product = matmul(left, right)
        if product.dtype is dtype:
            calls.append(None)
            if len(calls) == examiner.ROUNDS:
                product[3, 5] += 1
        return product

    monkeypatch.setattr(Tensor, "__matmul__", flawed)
    with pytest.raises(examiner.Wrong, match=r"1 of 262144 numbers are wrong in round 4"):
        examiner.check_products(CPU, dtype)


def test_a_model_that_computes_something_else_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(examiner.KEPT, "loss", examiner.KEPT["loss"] * 1.002)
    with pytest.raises(examiner.Wrong, match=r"loss of the starter model is 17\.7307"):
        examiner.check_starter(CPU)


def test_a_check_that_cannot_be_made_is_failed_and_the_others_are_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(device: torch.device) -> str:
        raise RuntimeError("no such device")

    monkeypatch.setattr(examiner, "check_device", away)
    code, found = verdicts(monkeypatch, capsys)
    assert code == 1
    assert [name for name, passed in found.items() if not passed] == ["device"]
