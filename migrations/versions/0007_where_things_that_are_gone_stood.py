"""Where things that are gone stood in their list"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0007'
down_revision: str | None = '0006'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table('departed',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('owner_id', sa.Text(), nullable=False),
    sa.Column('position', sa.Double(), nullable=False),
    sa.Column('removed_at', sa.Double(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_departed'))
    )
    op.create_index(op.f('ix_departed_removed_at'), 'departed', ['removed_at'], unique=False)


def downgrade() -> None:
    op.drop_table('departed')
