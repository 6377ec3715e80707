"""The `honed` command: migrating, keys and projects."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker
from typer.testing import CliRunner

from service.cli import app as cli
from service.settings import ServiceSettings
from service.up import _environ as environ


@pytest.fixture
def settings(settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> ServiceSettings:
    """Settings of a migrated database, which the command finds in its environment."""
    monkeypatch.setenv("HONED_DATABASE_URL", settings.database_url)
    return settings


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_python_without_isolation_is_asked_for_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[ServiceSettings] = []
    monkeypatch.setattr("service.cli.run_up", lambda settings, say: started.append(settings))
    data = ("up", "--data", str(tmp_path))
    run(*data)
    run(*data, "--unsafe-python-graders-without-isolation")
    monkeypatch.setenv("HONED_UNSAFE_PYTHON_GRADERS", "true")
    run(*data)
    assert [one.unsafe_python_graders for one in started] == [False, True, True]
    told = [environ(one)["HONED_UNSAFE_PYTHON_GRADERS"] for one in started]
    assert told == ["False", "True", "True"]


def test_migrate_makes_a_database_and_may_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    for _ in range(2):
        assert run("migrate", "--data", str(folder)) == (0, "The database is up to date.\n", "")
    assert (folder / "honed.db").exists()


@pytest.mark.on_both_databases
def test_migrate_makes_the_first_key_once(settings: ServiceSettings) -> None:
    path, data = settings.data_dir / "key", ("--data", str(settings.data_dir))
    for _ in range(2):
        code, said, _ = run("migrate", "--first-key", *data)
        assert (code, f"API key: {path}" in said) == (0, True)
    assert path.read_text().startswith("hk-")
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(run("keys", "list", *data)[1].splitlines()) == 2


def test_migrate_makes_the_first_key_also_where_the_service_will_listen_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONED_HOST", "0.0.0.0")
    code, said, refused = run("migrate", "--first-key", "--data", str(tmp_path))
    assert (code, refused) == (0, "")
    assert f"API key: {tmp_path / 'key'}" in said


@pytest.mark.on_both_databases
def test_a_key_is_shown_once_works_and_can_be_ended(
    app: FastAPI, settings: ServiceSettings, sessions: sessionmaker[Session]
) -> None:
    data = ("--data", str(settings.data_dir))
    code, secret, _ = run("keys", "create", "--name", "laptop", "--project", "team", *data)
    secret = secret.strip()
    assert code == 0
    assert secret.startswith("hk-")
    assert len(secret) > 40
    with sessions() as session:
        (kept,) = session.execute(text("SELECT * FROM api_keys"))
    assert secret not in str(kept)

    with TestClient(app, headers={"Authorization": f"Bearer {secret}"}) as client:
        assert client.get("/v1/files").status_code == 200
        _, listed, _ = run("keys", "list", *data)
        (row,) = listed.splitlines()[1:]
        key_id = row.split()[0]
        assert row.split()[1:5] == ["team", "laptop", secret[:8], "train"]
        assert secret not in listed
        assert run("keys", "revoke", key_id, *data) == (0, f"{key_id} is revoked.\n", "")
        assert client.get("/v1/files").status_code == 401
    code, _, sentence = run("keys", "revoke", key_id, *data)
    assert (code, "no live key" in sentence) == (1, True)


@pytest.mark.on_both_databases
def test_a_key_is_made_with_scopes_and_no_others(settings: ServiceSettings) -> None:
    data = ("--data", str(settings.data_dir))
    assert run("keys", "create", "--scope", "priority", "--scope", "read", *data)[0] == 0
    (row,) = run("keys", "list", *data)[1].splitlines()[1:]
    assert row.split()[4] == "read,priority"
    code, _, sentence = run("keys", "create", "--scope", "root", *data)
    assert code == 2
    assert all(scope in sentence for scope in ("'root'", "'read'", "'train'", "'priority'"))


@pytest.mark.on_both_databases
def test_projects_are_made_once_and_listed_with_their_keys(settings: ServiceSettings) -> None:
    data = ("--data", str(settings.data_dir))
    code, made, _ = run("projects", "create", "team", *data)
    assert (code, made.startswith("proj_")) == (0, True)
    code, _, sentence = run("projects", "create", "team", *data)
    assert (code, "a project 'team' already" in sentence) == (1, True)
    for name in ("a", "b"):
        run("keys", "create", "--name", name, "--project", "team", *data)
    _, listed, _ = run("keys", "list", *data)
    run("keys", "revoke", listed.splitlines()[1].split()[0], *data)
    (row,) = run("projects", "list", *data)[1].splitlines()[1:]
    assert row.split()[:3] == [made.strip(), "team", "1"]


def test_the_secret_of_a_projects_endpoints_is_told(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--data", str(settings.data_dir))
    ids = [run("projects", "create", name, *data)[1].strip() for name in ("team", "other")]
    ask = ("projects", "endpoint-secret")
    code, _, sentence = run(*ask, "team", *data)
    assert (code, "set HONED_ENDPOINT_SECRET" in sentence) == (1, True)
    monkeypatch.setenv("HONED_ENDPOINT_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    code, secret, _ = run(*ask, "team", *data)
    assert (code, secret.startswith("whsec_")) == (0, True)
    assert run(*ask, ids[0], *data)[1] == secret, "by its id"
    assert run(*ask, "other", *data)[1] != secret
    code, _, sentence = run(*ask, "nobody", *data)
    assert (code, "no project 'nobody'" in sentence) == (1, True)
    monkeypatch.setenv("HONED_ENDPOINT_SECRET", "hush!")
    code, said, sentence = run(*ask, "team", *data)
    assert (code, "HONED_ENDPOINT_SECRET" in sentence, "hush" in said + sentence) == (
        1,
        True,
        False,
    )


@pytest.mark.parametrize("verb", [("create",), ("list",), ("revoke", "key_x")])
def test_a_database_that_was_never_migrated_is_a_sentence(
    tmp_path: Path, verb: tuple[str, ...]
) -> None:
    code, _, sentence = run("keys", *verb, "--data", str(tmp_path / "fresh"))
    assert (code, "run `honed migrate`" in sentence) == (1, True)


def test_a_database_that_does_not_answer_is_a_sentence(settings: ServiceSettings) -> None:
    (settings.data_dir / "honed.db").unlink()
    (settings.data_dir / "honed.db").mkdir()
    code, _, sentence = run("keys", "list", "--data", str(settings.data_dir))
    assert (code, sentence.startswith("The database does not answer: ")) == (1, True)


@pytest.mark.on_both_databases
def test_a_projects_quota_is_set_and_shown(
    settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ("--data", str(settings.data_dir))
    project_id = run("projects", "create", "team", *data)[1].strip()

    def limit(*to: str) -> str:
        code, said, _ = run("projects", "quota", "team", *to, *data)
        assert code == 0
        head, row = said.splitlines()
        assert head.split()[:2] == ["limit", "used"]
        return row.split()[0]

    assert limit() == "none"
    monkeypatch.setenv("HONED_PROJECT_QUOTA_GB", "1.5")
    assert limit() == "1,500,000,000"
    for size, shown in (("50GB", "50,000,000,000"), ("0.5mb", "500,000"), ("7", "7")):
        assert limit(size) == limit() == shown
    (row,) = run("projects", "list", *data)[1].splitlines()[1:]
    assert row.split()[:5] == [project_id, "team", "0", "0", "7"]
    assert limit("none") == "none"
    assert limit("default") == "1,500,000,000"
    for wrong, word in (("much", "no size"), ("9999999TB", "more than can be stored")):
        code, _, sentence = run("projects", "quota", project_id, wrong, *data)
        assert (code, word in sentence) == (1, True)
    code, _, sentence = run("projects", "quota", "nobody", *data)
    assert (code, "no project 'nobody'" in sentence) == (1, True)
