"""One embedded stack for the end-to-end tests: it heals from what they do to its parts."""

from collections.abc import Iterator

import pytest
from embedded import Stack, start, stop


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Short leases, so that lost attempts are seen soon."""
    running = start(
        tmp_path_factory.mktemp("stack"), HONED_LEASE_SECONDS="4", HONED_SWEEP_SECONDS="0.5"
    )
    yield running
    stop(running)
