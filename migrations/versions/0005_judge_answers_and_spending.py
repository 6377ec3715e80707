"""What judges answered, and what a job has spent of its limits"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0005'
down_revision: str | None = '0004'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('spent', sa.JSON(), nullable=False, server_default='{}'))
    op.create_table('judge_answers',
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('answer', sa.JSON(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_judge_answers_job_id_jobs')),
    sa.PrimaryKeyConstraint('job_id', 'key', name=op.f('pk_judge_answers'))
    )


def downgrade() -> None:
    op.drop_table('judge_answers')
    op.drop_column('jobs', 'spent')
