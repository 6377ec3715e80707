"""The compose files and the Dockerfile as data, held against what the code reads and runs."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.artifacts.objects import ASK_SECONDS
from jobs.db import POSTGRESQL_CONNECTION
from jobs.doorbell import celery_config
from jobs.serving import LIVE_PATH
from jobs.settings import Settings
from service.settings import ServiceSettings

ROOT = Path(__file__).parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKER: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.worker.yml").read_text())
WITH_BUCKET: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.s3.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: one for name, one in SERVICES.items() if one["image"].startswith("honed-")}
ALONE: dict[str, Any] = WORKER["services"]["worker"]
SETTINGS = {f"HONED_{name.upper()}": name for name in ServiceSettings.model_fields}

REFERENCE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")
SECRETS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "SERVING_TOKEN")
BASE_MODELS = "${BASE_MODELS:-./base-models}:/base-models:ro"


def targets() -> dict[str, str]:
    """Each stage of the Dockerfile with its instructions."""
    parts = re.split(r"^FROM (?:\S+) AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands() -> list[tuple[str, list[str]]]:
    """What each of our containers runs, its health check included."""
    found = []
    for name, one in OURS.items():
        default = re.search(r"^CMD (\[.*\])$", targets()[one["build"]["target"]], re.MULTILINE)
        assert default is not None
        found.append((name, one.get("command") or yaml.safe_load(default.group(1))))
        if "healthcheck" in one:
            found.append((name, one["healthcheck"]["test"][1:]))
    return found


def test_the_parts_are_there() -> None:
    ours = {"migrate", "service", "sweeper", "worker", "serving"}
    assert set(OURS) == ours
    assert set(SERVICES) == {"postgres", "redis", *ours}
    assert {one["build"]["target"] for one in OURS.values()} == {"service", "worker"}


def test_every_variable_of_ours_is_a_setting_that_the_code_reads() -> None:
    for name, one in OURS.items():
        ours = {key for key in one["environment"] if key.startswith("HONED_")}
        assert ours <= set(SETTINGS), name
        sample = {SETTINGS[key]: one["environment"][key] for key in ours}
        filled = {key: REFERENCE.sub("secret", value) for key, value in sample.items()}
        settings = ServiceSettings.model_validate(filled)
        assert settings.sqlalchemy_url.startswith("postgresql://honed:secret@postgres:")
        assert settings.broker_url.startswith("redis://:secret@redis:")


def test_secrets_come_from_the_environment_and_have_no_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = dict(REFERENCE.findall(text))
    assert set(used) == {*SECRETS, "HF_TOKEN", "BASE_MODELS"}
    assert all(used[name].startswith(":?") for name in SECRETS)
    assert used["HF_TOKEN"] == ":-"
    assert SERVICES["redis"]["command"][:2] == ["redis-server", "--requirepass"]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".env", "honed.env"} <= set(ignored)


@pytest.mark.parametrize(("name", "argv"), commands())
def test_what_a_container_runs_exists(name: str, argv: list[str]) -> None:
    if argv[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(argv[2]) is not None
    elif argv[:2] == ["python", "-c"]:
        compile(argv[2], name, "exec")
    else:
        scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
        assert argv[0] in scripts


def test_whatever_goes_on_running_has_a_health_check_and_starts_again() -> None:
    for name, one in SERVICES.items():
        if name == "migrate":
            assert one["restart"] == "no"
            continue
        assert one["restart"] == "unless-stopped", name
        assert one["healthcheck"]["test"], name
    for name in ("service", "sweeper", "worker", "serving"):
        conditions = {key: value["condition"] for key, value in OURS[name]["depends_on"].items()}
        assert conditions == {
            "migrate": "service_completed_successfully",
            "redis": "service_healthy",
        }


def test_the_database_counts_as_well_only_once_it_answers_over_tcp() -> None:
    # The image's first start runs a server on the socket alone, and ends it again.
    test = SERVICES["postgres"]["healthcheck"]["test"]
    assert test[:4] == ["CMD", "pg_isready", "--host", "127.0.0.1"]


def test_the_service_finds_the_serving_process_and_shows_it_its_token() -> None:
    asking, answering = (OURS[name]["environment"] for name in ("service", "serving"))
    assert asking["HONED_SERVING_TOKEN"] == answering["HONED_SERVING_TOKEN"]
    port = answering["HONED_SERVING_LISTEN"].rpartition(":")[2]
    assert asking["HONED_SERVING_URL"] == f"http://serving:{port}"
    assert f"127.0.0.1:{port}{LIVE_PATH}" in OURS["serving"]["healthcheck"]["test"][-1]
    assert "ports" not in OURS["serving"]


def test_nothing_gains_privileges_and_ours_have_none() -> None:
    # The images of postgres and redis give up root by themselves, for which they need to be it.
    for one in (*SERVICES.values(), ALONE):
        assert one["security_opt"] == ["no-new-privileges:true"]
    for one in (*OURS.values(), ALONE):
        assert one["cap_drop"] == ["ALL"]
        assert one["init"] is True


def test_every_setting_can_be_set_in_a_file_that_need_not_be_there() -> None:
    for one in (*OURS.values(), ALONE):
        assert one["env_file"] == [{"path": "honed.env", "required": False}]
    assert "Compose 2.24" in (ROOT / "README.md").read_text(), "the first that knows `required`"


def test_base_models_are_mounted_where_jobs_may_name_them() -> None:
    for one in (*OURS.values(), ALONE):
        assert BASE_MODELS in one["volumes"]
        assert one["environment"]["HONED_MODEL_ROOTS"] == BASE_MODELS.split(":")[-2]


def test_readiness_has_more_time_than_what_it_waits_for() -> None:
    check = SERVICES["service"]["healthcheck"]
    (asking,) = re.findall(r"timeout=(\d+)", check["test"][-1])
    database = POSTGRESQL_CONNECTION["tcp_user_timeout"] / 1000
    database += POSTGRESQL_CONNECTION["connect_timeout"]
    options = celery_config(Settings(broker_url="redis://"))["broker_transport_options"]
    broker = 2 * options["socket_connect_timeout"]
    store = 2 * ASK_SECONDS
    assert database + broker + store < int(asking) < int(check["timeout"].removesuffix("s"))


def test_a_worker_on_another_machine_is_the_same_worker() -> None:
    here = SERVICES["worker"]
    own = {"environment", "volumes", "depends_on"}
    assert set(ALONE) == set(here) - {"depends_on"}
    assert {key: ALONE[key] for key in set(ALONE) - own} == {
        key: here[key] for key in set(here) - own
    }
    assert set(ALONE["environment"]) == set(here["environment"])
    for name in ("HONED_DATABASE_URL", "HONED_BROKER_URL"):
        assert ALONE["environment"][name].startswith(f"${{{name}:?set {name}, as ")
    data, models, base_models = ALONE["volumes"]
    assert data.startswith("${DATA:?")
    assert data.endswith("}:/data")
    assert (models, base_models) == ("models:/models", BASE_MODELS)
    assert set(WORKER["volumes"]) == {"models"}


def test_volumes_are_declared_and_the_artifacts_are_shared() -> None:
    mounted = {
        name: dict(one.split(":")[:2] for one in service.get("volumes", []) if one != BASE_MODELS)
        for name, service in SERVICES.items()
    }
    used = {volume for volumes in mounted.values() for volume in volumes}
    assert used == set(COMPOSE["volumes"])
    for name in OURS:
        assert mounted[name]["data"] == OURS[name]["environment"]["HONED_DATA_DIR"]
    for name in ("worker", "serving", "service"):
        assert mounted[name]["models"] == OURS[name]["environment"]["HF_HOME"]
    assert "models:/models:ro" in OURS["service"]["volumes"]


class TestWithABucket:
    """docker-compose.s3.yml is laid over docker-compose.yml."""

    ADDED = ("objects", "bucket")
    PARTS: dict[str, dict[str, Any]] = WITH_BUCKET["services"]

    def test_whoever_reads_or_writes_artifacts_is_told_where_they_are(self) -> None:
        assert set(self.PARTS) == {*self.ADDED, *OURS} - {"migrate"}
        wanted = self.PARTS["bucket"]["environment"]
        for name in set(self.PARTS) - {"objects"}:
            assert self.PARTS[name]["environment"] == wanted, name
        ours = {SETTINGS[key]: value for key, value in wanted.items() if key in SETTINGS}
        settings = ServiceSettings.model_validate(ours)
        assert settings.artifacts_url == "s3://honed/artifacts"
        assert settings.artifacts_endpoint == "http://objects:9000"
        assert {key for key in wanted if key not in SETTINGS} == {
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
        }

    def test_the_keys_come_from_the_environment_and_are_the_servers(self) -> None:
        text = (ROOT / "docker-compose.s3.yml").read_text()
        used = dict(REFERENCE.findall(text))
        assert set(used) == {"S3_ACCESS_KEY", "S3_SECRET_KEY"}
        assert all(default.startswith(":?") for default in used.values())
        server, user = (self.PARTS[name]["environment"] for name in ("objects", "service"))
        assert server["MINIO_ROOT_USER"] == user["AWS_ACCESS_KEY_ID"]
        assert server["MINIO_ROOT_PASSWORD"] == user["AWS_SECRET_ACCESS_KEY"]

    def test_nothing_starts_before_the_bucket_is_there(self) -> None:
        assert self.PARTS["bucket"]["command"][:2] == ["python", "-m"]
        assert importlib.util.find_spec(self.PARTS["bucket"]["command"][2]) is not None
        assert self.PARTS["bucket"]["depends_on"] == {"objects": {"condition": "service_healthy"}}
        made = {"bucket": {"condition": "service_completed_successfully"}}
        for name in set(self.PARTS) - set(self.ADDED):
            assert self.PARTS[name]["depends_on"] == made, name

    def test_it_is_kept_and_published_nowhere(self) -> None:
        assert self.PARTS["objects"]["volumes"] == ["objects:/objects"]
        assert set(WITH_BUCKET["volumes"]) == {"objects"}
        for name in self.ADDED:
            assert "ports" not in self.PARTS[name]
            assert self.PARTS[name]["security_opt"] == ["no-new-privileges:true"]
        assert self.PARTS["objects"]["restart"] == "unless-stopped"
        assert self.PARTS["objects"]["healthcheck"]["test"]


def test_only_the_service_is_published_and_only_on_loopback() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published == {"service": ["127.0.0.1:8000:8000"]}
    environment = SERVICES["service"]["environment"]
    assert (environment["HONED_HOST"], environment["HONED_PORT"]) == ("0.0.0.0", "8000")


def test_the_worker_gets_the_gpus_and_the_time_to_save() -> None:
    (device,) = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert SERVICES["worker"]["stop_grace_period"] == "60s"


def test_the_service_image_has_no_torch_and_neither_runs_as_root() -> None:
    stages = targets()
    assert set(stages) == {"code", "base", "service", "worker"}
    assert "pip install -c constraints.txt -r service.txt\n" in stages["base"]
    assert "worker.txt\n" not in stages["service"]
    assert "pip install -c constraints.txt -r worker.txt\n" in stages["worker"]
    for name in ("service", "worker"):
        assert "\nUSER honed\n" in stages[name]
        # What an edit of the code changes comes after all that takes long.
        assert stages[name].index("COPY --from=code") > stages[name].rfind("-r worker.txt")
        assert "pip install --no-deps .\n" in stages[name]


def test_the_images_dependencies_are_the_projects(tmp_path: Path) -> None:
    (script,) = re.findall(r'^RUN python -c "(.+)"$', DOCKERFILE, flags=re.MULTILINE)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{script}"'], cwd=tmp_path, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (tmp_path / "service.txt").read_text().splitlines() == project["dependencies"]
    wanted = project["optional-dependencies"]["worker"]
    assert (tmp_path / "worker.txt").read_text().splitlines() == wanted


def test_what_is_copied_into_the_images_is_there_and_not_ignored() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY ([^-].+)$", DOCKERFILE, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    wanted = {pattern.rstrip("*") for pattern in packages["packages"]["find"]["include"]}
    assert wanted <= copied
