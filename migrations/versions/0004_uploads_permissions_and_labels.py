"""Files in parts and with an end, permissions of checkpoints, labels and result files"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0004'
down_revision: str | None = '0003'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


# Columns are added and dropped in place: what refers to a table would forbid making it anew.
def upgrade() -> None:
    op.create_table('uploads',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('project_id', sa.Text(), nullable=False),
    sa.Column('filename', sa.Text(), nullable=False),
    sa.Column('purpose', sa.Text(), nullable=False),
    sa.Column('num_bytes', sa.BigInteger(), nullable=False),
    sa.Column('file_lives_seconds', sa.Integer(), nullable=True),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.Column('expires_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_uploads_project_id_projects')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_uploads'))
    )
    op.create_index(op.f('ix_uploads_status_expires_at'), 'uploads', ['status', 'expires_at'], unique=False)
    op.create_table('upload_parts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('upload_id', sa.Text(), nullable=False),
    sa.Column('num_bytes', sa.BigInteger(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['upload_id'], ['uploads.id'], name=op.f('fk_upload_parts_upload_id_uploads')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_upload_parts'))
    )
    op.create_index(op.f('ix_upload_parts_upload_id'), 'upload_parts', ['upload_id'], unique=False)
    op.create_table('checkpoint_permissions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('step', sa.Integer(), nullable=False),
    sa.Column('project_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_checkpoint_permissions_job_id_jobs')),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_checkpoint_permissions_project_id_projects')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_checkpoint_permissions'))
    )
    op.create_index(op.f('ix_checkpoint_permissions_job_id_step_project_id'), 'checkpoint_permissions', ['job_id', 'step', 'project_id'], unique=True)
    op.create_index(op.f('ix_checkpoint_permissions_project_id'), 'checkpoint_permissions', ['project_id'], unique=False)
    labels = op.create_table('job_metadata',
    sa.Column('job_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('value', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_metadata_job_id_jobs')),
    sa.PrimaryKeyConstraint('job_id', 'key', name=op.f('pk_job_metadata'))
    )
    op.create_index(op.f('ix_job_metadata_key_value'), 'job_metadata', ['key', 'value'], unique=False)
    op.add_column('files', sa.Column('expires_at', sa.Double(), nullable=True))
    op.create_index(op.f('ix_files_expires_at'), 'files', ['expires_at'], unique=False)
    op.add_column('jobs', sa.Column('result_file', sa.Text(), nullable=True))
    op.bulk_insert(labels, _labels_of_earlier_jobs())


def _labels_of_earlier_jobs() -> list[dict[str, str]]:
    jobs = sa.table('jobs', sa.column('id', sa.Text()), sa.column('spec', sa.JSON()))
    return [
        {'job_id': job.id, 'key': key, 'value': value}
        for job in op.get_bind().execute(sa.select(jobs.c.id, jobs.c.spec))
        for key, value in (job.spec.get('metadata') or {}).items()
    ]


def downgrade() -> None:
    op.drop_column('jobs', 'result_file')
    op.drop_index(op.f('ix_files_expires_at'), 'files')
    op.drop_column('files', 'expires_at')
    for table in ('job_metadata', 'checkpoint_permissions', 'upload_parts', 'uploads'):
        op.drop_table(table)
