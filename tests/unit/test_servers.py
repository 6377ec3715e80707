"""A server that is not there: a skip for a person, a failure where everything must be there."""

import pytest
import servers


def test_a_missing_server_skips_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Redis here"):
        servers.missing("There is no Redis here.")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Redis here"):
        servers.missing("There is no Redis here.")
