"""The small parts of the shared room: settings, registry, keys, names, ids, strict JSON, errors."""

import inspect
import json
import re
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from jobs import errors, ids, strict_json
from jobs.db import transaction
from jobs.errors import BadRequest, ModelNotFound
from jobs.models import ApiKey, Job
from jobs.names import tuned_checkpoint, tuned_model
from jobs.registry import DEFAULT_LEARNING_RATE, STARTER, find_model
from jobs.scopes import Scope
from jobs.settings import Settings
from jobs.store import projects
from jobs.store.projects import Caller


class TestSettings:
    def test_one_folder_holds_all(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path)
        assert settings.sqlalchemy_url == f"sqlite:///{tmp_path}/honed.db"
        for folder in (settings.artifacts_dir, settings.broker_dir, settings.logs_dir):
            assert folder.parent == tmp_path

    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HONED_DATABASE_URL", "postgresql+psycopg://h/d")
        monkeypatch.setenv("HONED_MODEL_ROOTS", "/models:/more:")
        monkeypatch.setenv("HONED_LEASE_SECONDS", "3")
        monkeypatch.setenv("HONED_UNKNOWN", "x")
        settings = Settings()
        assert settings.sqlalchemy_url == "postgresql+psycopg://h/d"
        assert settings.model_roots == (Path("/models"), Path("/more"))
        assert settings.lease_seconds == 3
        assert settings.data_dir.is_absolute()


class TestRegistry:
    def test_the_starter_names_its_own_rate(self) -> None:
        model = find_model(STARTER, Settings())
        assert model.folder is not None
        assert (model.folder / "config.json").is_file()
        assert model.learning_rate > DEFAULT_LEARNING_RATE

    def test_a_hub_name_is_left_to_validation(self) -> None:
        for name in ("Qwen/Qwen3-0.6B", "a/b@v1.0"):
            assert find_model(name, Settings()).folder is None

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("gpt-4o", "does not exist here"),
            ("honed/big", "this server ships 'honed/starter'"),
            ("ft:honed/starter:p::x", "name the base model"),
            ("/etc", "HONED_MODEL_ROOTS"),
            ("~", "HONED_MODEL_ROOTS"),
            ("a/b/c", "does not exist here"),
            ("a/../b", "does not exist here"),
            ("org/name\n", "does not exist here"),
        ],
    )
    def test_what_is_not_there(self, name: str, sentence: str) -> None:
        with pytest.raises(ModelNotFound, match=sentence) as caught:
            find_model(name, Settings())
        assert caught.value.param == "model"

    def test_folders_only_under_the_listed_roots(self, model_folder: Path, tmp_path: Path) -> None:
        settings = Settings(model_roots=(model_folder.parent,))
        assert find_model(str(model_folder), settings).folder == model_folder
        link = model_folder.parent / "link"
        link.symlink_to(tmp_path)
        for name in (str(link), f"{model_folder.parent}/../x", str(tmp_path)):
            with pytest.raises(ModelNotFound, match="not under a folder"):
                find_model(name, settings)
        with pytest.raises(ModelNotFound, match=r"holds no config\.json"):
            find_model(str(model_folder.parent), settings)
        (model_folder / "model.safetensors").unlink()
        with pytest.raises(BadRequest, match="no safetensors weights"):
            find_model(str(model_folder), settings)


class TestKeys:
    def test_only_the_hash_is_kept(self, sessions: sessionmaker[Session]) -> None:
        with transaction(sessions) as session:
            project = projects.ensure_project(session, "a")
            key = projects.issue_key(session, project, "laptop")
        assert len(key.secret) >= len("hk-") + 43
        with sessions() as session:
            stored = session.get_one(ApiKey, key.id)
        assert key.secret not in (stored.sha256, stored.shown_prefix)
        assert key.secret.startswith(stored.shown_prefix)
        assert len(stored.shown_prefix) <= 8

    def test_a_key_speaks_for_its_project_until_revoked(
        self, sessions: sessionmaker[Session]
    ) -> None:
        with transaction(sessions) as session:
            one, two = (
                projects.issue_key(session, projects.ensure_project(session, name), "k")
                for name in ("one", "two")
            )
            assert projects.ensure_project(session, "one").id == one.project_id
        with transaction(sessions) as session:
            speaks_for = {
                key.secret: projects.caller_of_key(session, key.secret) for key in (one, two)
            }
            assert speaks_for == {
                key.secret: Caller(key.id, key.project_id, frozenset({Scope.READ, Scope.TRAIN}))
                for key in (one, two)
            }
            assert projects.caller_of_key(session, one.secret + "x") is None
            assert projects.revoke_key(session, one.id)
            assert projects.caller_of_key(session, one.secret) is None
        with sessions() as session:
            listed = projects.list_keys(session)
        assert {(key.id, project.name) for key, project in listed} == {
            (one.id, "one"),
            (two.id, "two"),
        }

    def test_the_oldest_is_listed_first(self, sessions: sessionmaker[Session]) -> None:
        with transaction(sessions) as session:
            project = projects.ensure_project(session, "one")
            issued = [projects.issue_key(session, project, str(age)) for age in range(3)]
            for age, key in enumerate(issued):
                session.get_one(ApiKey, key.id).created_at = 1000.0 - age
        with sessions() as session:
            assert [key.name for key, _ in projects.list_keys(session)] == ["2", "1", "0"]


def test_a_tuned_models_name() -> None:
    job = Job(id="ftjob-abc", project_id="proj_x", model="org/base", spec={"suffix": "mine"})
    assert tuned_model(job) == "ft:org/base:proj_x:mine:abc"
    assert tuned_checkpoint(job, 10) == "ft:org/base:proj_x:mine:abc:ckpt-step-10"
    job.spec = {"suffix": None}
    assert tuned_model(job) == "ft:org/base:proj_x::abc"


def test_ids_are_not_to_be_guessed() -> None:
    made = {ids.new_id(ids.JOB) for _ in range(100)}
    assert len(made) == 100
    assert all(len(found) == len("ftjob-") + 24 for found in made)


class TestStrictJson:
    @pytest.mark.parametrize(
        "text", ['{"a": [1, 2.5, null, true, "\\u00e9", "\\ud83d\\ude00"]}', " 3 ", '"\\\\ud800"']
    )
    def test_json_is_json(self, text: str) -> None:
        assert strict_json.loads(text.encode()) == json.loads(text)

    @pytest.mark.parametrize(
        ("raw", "reason"),
        [
            (b"{", "Expecting property name"),
            (b"\xff", "not UTF-8"),
            (b"[Infinity]", "Infinity is not a JSON number"),
            (b"[-1e400]", "the number -1e400 is too large"),
            (b'{"\\uDBFF": 1}', "unpaired surrogate"),
            (b'["\\ude00\\ud83d"]', "unpaired surrogate"),
            (b'{"a":' * 5000, "nested too deeply"),
        ],
    )
    def test_all_else_is_a_reason(self, raw: bytes, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            strict_json.loads(raw)


def test_the_drawn_tree_of_errors_is_the_codes() -> None:
    drawn = inspect.getdoc(errors) or ""
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if error.__module__ == errors.__name__:
            assert name in drawn
            status = re.search(rf"^ *{name} +(\d+)  ", drawn, re.MULTILINE)
            assert status is None or int(status[1]) == error.status
