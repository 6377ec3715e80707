"""What projects store and may store, and what is known of things whose time was over"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

# A text as it is stored, in bytes.
SIZES = {
    "sqlite": "length(CAST(samples AS BLOB))",
    "postgresql": "octet_length(CAST(samples AS TEXT))",
}


def upgrade() -> None:
    op.add_column("projects", sa.Column("quota_bytes", sa.BigInteger(), nullable=True))
    for table, column in (
        ("checkpoints", "kept_bytes"),
        ("checkpoints", "state_bytes"),
        ("samples", "num_bytes"),
        ("jobs", "sample_bytes"),
    ):
        op.add_column(table, sa.Column(column, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("samples_gone_step", sa.Integer(), nullable=True))
    op.add_column(
        "departed", sa.Column("is_expired", sa.Boolean(), server_default=sa.false(), nullable=False)
    )
    op.add_column("departed", sa.Column("left_behind", sa.Text(), nullable=True))
    op.create_index(op.f("ix_samples_created_at"), "samples", ["created_at"], unique=False)
    op.create_index(op.f("ix_departed_left_behind"), "departed", ["left_behind"], unique=False)
    op.create_index("ix_uploads_project_id_status", "uploads", ["project_id", "status"])
    # Of folders that were published before, the rows know only what the archive takes: beside it
    # lie the same files once more.
    op.execute("UPDATE checkpoints SET kept_bytes = 2 * archive_bytes")
    op.execute(f"UPDATE samples SET num_bytes = {SIZES[op.get_bind().dialect.name]}")
    op.execute(
        "UPDATE jobs SET sample_bytes = (SELECT coalesce(sum(num_bytes), 0) FROM samples "
        "WHERE samples.job_id = jobs.id)"
    )


def downgrade() -> None:
    op.drop_index("ix_uploads_project_id_status", table_name="uploads")
    op.drop_index(op.f("ix_samples_created_at"), table_name="samples")
    op.drop_index(op.f("ix_departed_left_behind"), table_name="departed")
    op.drop_column("departed", "left_behind")
    op.drop_column("departed", "is_expired")
    op.drop_column("jobs", "samples_gone_step")
    op.drop_column("jobs", "sample_bytes")
    op.drop_column("samples", "num_bytes")
    op.drop_column("checkpoints", "state_bytes")
    op.drop_column("checkpoints", "kept_bytes")
    op.drop_column("projects", "quota_bytes")
