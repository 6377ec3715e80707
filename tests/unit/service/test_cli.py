"""The `honed` command: migrating, keys and projects."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from service.cli import app as cli
from service.settings import ServiceSettings


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def test_migrate_makes_a_database_and_may_be_repeated(tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    for _ in range(2):
        assert run("migrate", "--data", str(folder)) == (0, "The database is up to date.\n", "")
    assert (folder / "honed.db").exists()


def test_a_key_is_shown_once_works_and_can_be_ended(
    app: FastAPI, settings: ServiceSettings
) -> None:
    data = ("--data", str(settings.data_dir))
    code, secret, _ = run("keys", "create", "--name", "laptop", "--project", "team", *data)
    secret = secret.strip()
    assert code == 0
    assert secret.startswith("hk-")
    assert len(secret) > 40
    assert secret.encode() not in (settings.data_dir / "honed.db").read_bytes()

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


def test_a_key_is_made_with_scopes_and_no_others(settings: ServiceSettings) -> None:
    data = ("--data", str(settings.data_dir))
    assert run("keys", "create", "--scope", "priority", "--scope", "read", *data)[0] == 0
    (row,) = run("keys", "list", *data)[1].splitlines()[1:]
    assert row.split()[4] == "read,priority"
    code, _, sentence = run("keys", "create", "--scope", "root", *data)
    assert code == 2
    assert all(scope in sentence for scope in ("'root'", "'read'", "'train'", "'priority'"))


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
