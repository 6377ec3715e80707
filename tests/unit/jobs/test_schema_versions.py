"""A database that is migrated under running processes: who goes on and who has to stop."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from holding import claim
from sqlalchemy import Engine, inspect, text
from sqlalchemy.orm import Session, sessionmaker

from jobs import schema
from jobs.errors import SchemaMismatch
from jobs.settings import Settings

pytestmark = pytest.mark.on_both_databases

MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = {name!r}
down_revision = {before!r}
branch_labels = depends_on = None

def upgrade():
    op.add_column("jobs", sa.Column("mood", sa.Text(), nullable=True))

def downgrade():
    op.drop_column("jobs", "mood")
"""

Update = Callable[[str], str]


@pytest.fixture
def update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Update]:
    """Install the next version, whose migration is named as given; the version's name."""

    def install(name: str) -> str:
        head = schema._head()
        number = schema._number(head)
        version = name.format(next=f"{number + 1:04d}", head=f"{number:04d}")
        folder = tmp_path / "newer"
        shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
        made = MIGRATION.format(name=version, before=head)
        (folder / "versions" / f"{version}.py").write_text(made)
        monkeypatch.setattr(schema, "MIGRATIONS", folder)
        schema._known.cache_clear()
        return version

    yield install
    schema._known.cache_clear()


def go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of before the update, which still runs somewhere."""
    monkeypatch.undo()
    schema._known.cache_clear()


def test_what_older_code_can_go_on_beside_is_done_under_held_jobs(
    engine: Engine,
    sessions: sessionmaker[Session],
    settings: Settings,
    make_job: Callable[..., str],
    update: Update,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_job()
    assert claim(sessions, worker="a:12")
    version = update("{next}_since_{head}")
    schema.migrate(settings.sqlalchemy_url)
    assert schema.current_version(engine) == version
    assert "mood" in {column["name"] for column in inspect(engine).get_columns("jobs")}
    schema.check_schema(engine)
    go_back(monkeypatch)
    schema.check_schema(engine)
    schema.migrate(settings.sqlalchemy_url)
    assert schema.current_version(engine) == version, "older code leaves it where it is"


def test_what_breaks_older_code_waits_for_its_workers(
    engine: Engine,
    sessions: sessionmaker[Session],
    settings: Settings,
    make_job: Callable[..., str],
    update: Update,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = schema.current_version(engine)
    for worker in ("b:34", "a:12"):
        make_job()
        assert claim(sessions, worker=worker)
    version = update("{next}")
    with pytest.raises(SchemaMismatch) as refused:
        schema.migrate(settings.sqlalchemy_url)
    assert f"Version {version} changes what workers of version {before} use" in str(refused.value)
    assert "these hold jobs: a:12, b:34. Stop the workers with SIGTERM" in str(refused.value)
    assert schema.current_version(engine) == before

    with sessions.begin() as session:
        session.execute(text("UPDATE jobs SET lease_expires_at = 1 WHERE lease_owner = 'a:12'"))
    schema.migrate(settings.sqlalchemy_url, ended="b")
    assert schema.current_version(engine) == version
    go_back(monkeypatch)
    for refuse in (
        lambda: schema.check_schema(engine),
        lambda: schema.migrate(settings.sqlalchemy_url),
    ):
        with pytest.raises(SchemaMismatch, match="migrated by a newer Honed"):
            refuse()


def test_beside_a_version_that_needs_newer_code_than_this(engine: Engine) -> None:
    head = schema._number(schema._head())
    for since, fits in ((head, True), (head + 1, False)):
        version = f"{head + 2:04d}_since_{since:04d}"
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :v"), {"v": version})
        if fits:
            schema.check_schema(engine)
            continue
        with pytest.raises(SchemaMismatch, match=f"at version {version}.*newer Honed"):
            schema.check_schema(engine)


def test_a_migration_that_older_code_can_go_on_beside_only_adds(
    settings: Settings, engine: Engine, update: Update
) -> None:
    """What older code writes must still be taken, and what it reads must still be there."""
    update("{next}_since_{head}")
    config = schema.alembic_config(settings.sqlalchemy_url)
    for version in filter(lambda one: "_since_" in one, schema._known()):
        command.downgrade(config, f"{schema.oldest_beside(version):04d}")
        before = tables(engine)
        command.upgrade(config, version)
        after = tables(engine)
        for name, columns in before.items():
            assert columns.items() <= after[name].items()
            for column in after[name].keys() - columns.keys():
                _, is_nullable, default = after[name][column]
                assert is_nullable or default is not None, f"{version}: {name}.{column}"


def tables(engine: Engine) -> dict[str, dict[str, tuple[str, bool, str | None]]]:
    """Every table's columns: type, whether null is taken, and the server's default."""
    found = inspect(engine)
    return {
        name: {
            column["name"]: (str(column["type"]), column["nullable"], column["default"])
            for column in found.get_columns(name)
        }
        for name in found.get_table_names()
    }
