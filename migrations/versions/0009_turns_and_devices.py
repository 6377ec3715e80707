"""Whose turn on a device it was, and which devices failed their self-test"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0009'
down_revision: str | None = '0008'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table('turns',
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('attempt', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('project_id', sa.Text(), nullable=False),
    sa.Column('worker', sa.Text(), nullable=True),
    sa.Column('slot', sa.Integer(), nullable=True),
    sa.Column('started_at', sa.Double(), nullable=False),
    sa.Column('until', sa.Double(), nullable=False),
    sa.Column('was_lost_early', sa.Boolean(), server_default=sa.false(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_turns_job_id_jobs')),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_turns_project_id_projects')),
    sa.PrimaryKeyConstraint('job_id', 'attempt', name=op.f('pk_turns'))
    )
    op.create_index(op.f('ix_turns_started_at'), 'turns', ['started_at'], unique=False)
    op.create_index(op.f('ix_turns_worker_slot'), 'turns', ['worker', 'slot'], unique=False)
    op.create_table('devices',
    sa.Column('worker', sa.Text(), nullable=False),
    sa.Column('slot', sa.Integer(), autoincrement=False, nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('memory_bytes', sa.BigInteger(), nullable=True),
    sa.Column('seen_at', sa.Double(), nullable=False),
    sa.Column('is_healthy', sa.Boolean(), nullable=False),
    sa.Column('evidence', sa.JSON(), nullable=True),
    sa.Column('tested_at', sa.Double(), nullable=True),
    sa.Column('test_at', sa.Double(), nullable=True),
    sa.Column('num_failed', sa.Integer(), nullable=False),
    sa.PrimaryKeyConstraint('worker', 'slot', name=op.f('pk_devices'))
    )
    op.create_index(op.f('ix_devices_seen_at'), 'devices', ['seen_at'], unique=False)
    op.drop_index(op.f('ix_jobs_status_priority_created_at'), table_name='jobs')
    op.create_index('ix_jobs_queue', 'jobs', ['status', 'priority', 'project_id', 'created_at', 'claimable_at', 'attempt', 'memory_cpu_bytes', 'memory_cuda_bytes', 'id'], unique=False)


def downgrade() -> None:
    op.drop_index('ix_jobs_queue', table_name='jobs')
    op.create_index(op.f('ix_jobs_status_priority_created_at'), 'jobs', ['status', 'priority', 'created_at'], unique=False)
    op.drop_table('devices')
    op.drop_table('turns')
