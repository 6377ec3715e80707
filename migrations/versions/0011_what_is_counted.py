"""What is counted of the whole system, and which request made a job"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0011'
down_revision: str | None = '0008'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        'tallies',
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('labels', sa.Text(), nullable=False),
        sa.Column('value', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('name', 'labels', name=op.f('pk_tallies')),
    )
    op.add_column('jobs', sa.Column('request_id', sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column('jobs', 'request_id')
    op.drop_table('tallies')
