"""What the artifact store holds and no row names: left by a process that was killed in between.

Bytes come before their row and go after it. Whatever is found without one by two looks, hours
apart, belongs to nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from jobs.artifacts import ArtifactStore
from jobs.errors import StoreAway
from jobs.models import Checkpoint, File, Upload

logger = logging.getLogger(__name__)

# Longer than any upload takes from its first byte to its row.
LOOK_SECONDS = 6 * 3600.0


class Orphans:
    """One sweeper's memory of its last look. Times are not compared: clocks may be set."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._look_at = time.monotonic() + LOOK_SECONDS

    def look_now_and_then(self, sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
        """`look`, when it is time."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self.look(sessions, artifacts)

    def look(self, sessions: sessionmaker[Session], artifacts: ArtifactStore) -> None:
        """Remove what had no row at the last look either."""
        held = set(artifacts.holdings())  # before the rows: those of what comes meanwhile follow
        with sessions() as session:
            named = _named(session)
        if held and not named:
            # Rather a database that is not this store's than a store of which nothing is wanted.
            logger.error("the database names nothing of what the artifact store holds; all is kept")
            return
        unnamed = held - named
        for relative in sorted(unnamed & self._seen):
            root, _, rest = relative.partition("/")
            if root == "files":
                artifacts.delete_upload(rest)
            else:
                artifacts.remove(relative)
            logger.info("%s belonged to nothing and is removed", relative)
        self._seen = unnamed - self._seen


def _named(session: Session) -> set[str]:
    pending = select(Upload.id).where(Upload.status == "pending")
    return {
        *(f"files/{file_id}" for file_id in session.scalars(select(File.id))),
        *(f"uploads/{upload_id}" for upload_id in session.scalars(pending)),
        *session.scalars(select(Checkpoint.folder)),
    }


def remove_bytes(remove: Callable[..., None], *names: str) -> None:
    """Remove what has no row, or none any more; where the store is away, the sweeper does it."""
    try:
        remove(*names)
    except StoreAway as away:
        logger.warning("bytes without a row are left to the sweeper: %s", away)
