"""What a job will need of a device's memory, and which device had too little"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0003'
down_revision: str | None = '0002'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('memory_cpu_bytes', sa.BigInteger(), nullable=True))
    op.add_column('jobs', sa.Column('memory_cuda_bytes', sa.BigInteger(), nullable=True))
    op.add_column('jobs', sa.Column('waits_for_memory', sa.JSON(), nullable=True))


def downgrade() -> None:
    for name in ('waits_for_memory', 'memory_cuda_bytes', 'memory_cpu_bytes'):
        op.drop_column('jobs', name)
