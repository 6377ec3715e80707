"""One hosted model with two adapters for all tests of serving."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from talker import write_adapter, write_talker

from worker.serving.engine import Engine
from worker.serving.generation import Adapter
from worker.serving.hosted import HostedModel


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_talker(tmp_path_factory.mktemp("talker"))


@pytest.fixture(scope="session")
def adapters(talker: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Two of different rank."""
    folder = tmp_path_factory.mktemp("adapters")
    return [
        Adapter(name, write_adapter(talker, folder / name, seed=seed, rank=rank))
        for name, seed, rank in (("first", 1, 4), ("second", 2, 8))
    ]


@pytest.fixture(scope="session")
def model(talker: Path) -> HostedModel:
    return HostedModel(talker)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.close()
