"""Types of columns that hold what a database by itself would refuse."""

from __future__ import annotations

from sqlalchemy import Dialect, Text, TypeDecorator


class Prose(TypeDecorator[str]):
    """Sentences that quote what users and libraries wrote, a NUL as U+FFFD, a half character as ?.

    PostgreSQL stores no NUL and no driver a lone surrogate, and the sentence that says what went
    wrong must not be lost to one.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.replace("\x00", "\ufffd").encode(errors="replace").decode()
