"""Alembic's entry: the URL comes from the caller or from HONED_DATABASE_URL's settings."""

from alembic import context

from jobs.db import connect
from jobs.models import Base
from jobs.settings import get_settings

url = context.config.attributes.get("url") or get_settings().sqlalchemy_url

engine = connect(url)
with engine.connect() as connection:
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
