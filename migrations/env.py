"""Alembic's entry: the URL comes from the caller or from HONED_DATABASE_URL's settings."""

from alembic import context
from sqlalchemy import text

from jobs.db import MIGRATION_LOCK, connect
from jobs.models import Base
from jobs.settings import get_settings

url = context.config.attributes.get("url") or get_settings().sqlalchemy_url

engine = connect(url)
with engine.connect() as connection:
    if connection.dialect.name == "postgresql":
        # One at a time; the lock goes with the connection. A minute also for the tables' locks.
        connection.execute(text("SET lock_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": MIGRATION_LOCK})
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        # SQLite cannot alter most of a table in place.
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
