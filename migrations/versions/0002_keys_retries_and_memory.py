"""What keys may do, and what creations were answered"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = '0002'
down_revision: str | None = '0001'
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


# Columns are added and dropped in place: what refers to a table would forbid making it anew.
def upgrade() -> None:
    op.add_column('api_keys', sa.Column('scopes', sa.Text(), nullable=False, server_default='train'))
    op.create_table('creations',
    sa.Column('object_id', sa.Text(), nullable=False),
    sa.Column('project_id', sa.Text(), nullable=False),
    sa.Column('key_id', sa.Text(), nullable=False),
    sa.Column('idempotency_key', sa.Text(), nullable=True),
    sa.Column('fingerprint', sa.Text(), nullable=False),
    sa.Column('answer', sa.Text(), nullable=False),
    sa.Column('created_at', sa.Double(), nullable=False),
    sa.ForeignKeyConstraint(['key_id'], ['api_keys.id'], name=op.f('fk_creations_key_id_api_keys')),
    sa.ForeignKeyConstraint(['project_id'], ['projects.id'], name=op.f('fk_creations_project_id_projects')),
    sa.PrimaryKeyConstraint('object_id', name=op.f('pk_creations'))
    )
    op.create_index(op.f('ix_creations_project_id_idempotency_key'), 'creations', ['project_id', 'idempotency_key'], unique=True)
    op.create_index(op.f('ix_creations_fingerprint'), 'creations', ['fingerprint'], unique=False)
    op.create_index(op.f('ix_creations_created_at'), 'creations', ['created_at'], unique=False)


def downgrade() -> None:
    op.drop_table('creations')
    op.drop_column('api_keys', 'scopes')
