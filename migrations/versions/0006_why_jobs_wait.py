"""Why a waiting job was turned away is no longer memory alone"""

from collections.abc import Sequence

from alembic import op

revision: str = '0006'
down_revision: str | None = '0005'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.execute('ALTER TABLE jobs RENAME COLUMN waits_for_memory TO turned_away')


def downgrade() -> None:
    # What is said of kinds of devices means nothing to the release before.
    op.execute('UPDATE jobs SET turned_away = NULL')
    op.execute('ALTER TABLE jobs RENAME COLUMN turned_away TO waits_for_memory')
