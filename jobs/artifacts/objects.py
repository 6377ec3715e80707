"""Objects under one prefix of a bucket, spoken to in S3's protocol, and one error for its absence.

Every request has a deadline and is tried again a few times, for longer each time, by the client
itself; what still fails is StoreAway.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from jobs.artifacts.base import CHUNK_BYTES
from jobs.errors import Gone, StoreAway
from jobs.settings import Settings

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
READ_SECONDS = 20.0
# One request and two more; the trainer tries again what still failed.
ATTEMPTS = 3
# Whether the store answers is asked once, by a check that has to answer itself.
ASK_SECONDS = 2.0
# An answer that breaks off is gone on with from there.
BROKEN_READS = 3
# What a server takes of one request to delete.
MAX_DELETED = 1000

ABSENT = frozenset({"404", "NoSuchKey"})
# The bucket is there, and whoever asks may use it.
OWN_ALREADY = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
# The object changed while it was read: it is shorter, or another one.
CHANGED = frozenset({"416", "InvalidRange", "412", "PreconditionFailed"})
# More parts at once only cost memory: an upload holds each of them.
TRANSFER = TransferConfig(max_concurrency=4)

WORDS: dict[type[Exception], str] = {
    EndpointConnectionError: "no connection",
    ConnectTimeoutError: "no connection in time",
    ReadTimeoutError: "no answer in time",
    NoCredentialsError: "no credentials for it",
}


class Listed(NamedTuple):
    name: str
    num_bytes: int


class Objects:
    """Names are relative to the prefix. Safe to use from many threads."""

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(settings.artifacts_url)
        self.bucket = parts.netloc
        self._prefix = f"{path}/" if (path := parts.path.strip("/")) else ""
        self._endpoint = settings.artifacts_endpoint or None
        self._region = settings.artifacts_region or None
        self._making = threading.Lock()
        self._made: dict[str, Any] = {}

    def put(self, name: str, source: BinaryIO) -> None:
        """Store all that can be read, as one object that is there whole or not at all.

        What reading raises is raised.
        """
        with self._answered("keep an object"):
            self._client().upload_fileobj(source, self.bucket, self._key(name), Config=TRANSFER)

    def size(self, name: str) -> int | None:
        """How many bytes an object has; None where there is none."""
        try:
            with self._answered("look at an object"):
                answer = self._client().head_object(Bucket=self.bucket, Key=self._key(name))
        except Absent:
            return None
        return int(answer["ContentLength"])

    def read(self, name: str, first: int, num_bytes: int) -> Iterator[bytes]:
        """Those bytes of an object, gone on with where the connection breaks.

        Raises Gone when it is no longer there, or no longer the same.
        """
        tag: dict[str, str] = {}
        num_broken = 0
        while num_bytes > 0:
            is_begun = False
            try:
                with self._answered("read an object"):
                    answer = self._client().get_object(
                        Bucket=self.bucket,
                        Key=self._key(name),
                        Range=f"bytes={first}-{first + num_bytes - 1}",
                        **tag,
                    )
                    tag, is_begun = {"IfMatch": answer["ETag"]}, True
                    for chunk in _body(answer["Body"]):
                        first, num_bytes, num_broken = first + len(chunk), num_bytes - len(chunk), 0
                        yield chunk
            except Absent:
                raise Gone(f"{name} is no longer in the artifact store, or not the same.") from None
            except StoreAway:
                num_broken += 1
                if not is_begun or num_broken == BROKEN_READS:
                    raise
                time.sleep(2.0**num_broken)

    def listed(self, prefix: str) -> Iterator[Listed]:
        """The objects whose names begin so, in order."""
        pages = self._client().get_paginator("list_objects_v2").paginate
        with self._answered("list objects"):
            for page in pages(Bucket=self.bucket, Prefix=self._key(prefix)):
                for one in page.get("Contents", ()):
                    yield Listed(one["Key"].removeprefix(self._prefix), int(one["Size"]))

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; those that are not there are no error."""
        rest = iter(names)
        while keys := [{"Key": self._key(name)} for name in islice(rest, MAX_DELETED)]:
            with self._answered("remove objects"):
                answer = self._client().delete_objects(
                    Bucket=self.bucket, Delete={"Objects": keys, "Quiet": True}
                )
            for refused in answer.get("Errors", ()):
                raise _away("remove objects", f"it answered {refused.get('Code')}")

    def unfinished(self) -> Iterator[tuple[str, str]]:
        """Uploads in pieces that nobody has ended: their names and ids."""
        pages = self._client().get_paginator("list_multipart_uploads").paginate
        with self._answered("list unfinished uploads"):
            for page in pages(Bucket=self.bucket, Prefix=self._prefix):
                for one in page.get("Uploads", ()):
                    yield one["Key"].removeprefix(self._prefix), one["UploadId"]

    def abort(self, name: str, upload_id: str) -> None:
        """Forget an unfinished upload, and what of it has come."""
        try:
            with self._answered("end an unfinished upload"):
                self._client().abort_multipart_upload(
                    Bucket=self.bucket, Key=self._key(name), UploadId=upload_id
                )
        except Absent:
            pass  # it has ended meanwhile

    def fault(self) -> str | None:
        """Why the bucket cannot be used now; None if it answers."""
        try:
            with self._answered("answer"):
                self._client(is_hurried=True).head_bucket(Bucket=self.bucket)
        except Absent:
            reason = "there is no such bucket"
        except StoreAway as away:
            reason = away.reason
        else:
            return None
        where = f" at {self._endpoint}" if self._endpoint else ""
        return f"The bucket '{self.bucket}'{where} cannot be used: {reason}."

    def make_bucket(self) -> None:
        """Have the bucket, made now unless it was there."""
        elsewhere = self._region not in (None, "us-east-1")
        place = {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        with self._answered("make the bucket"):
            try:
                self._client().create_bucket(Bucket=self.bucket, **(place if elsewhere else {}))
            except ClientError as error:
                if error.response["Error"]["Code"] not in OWN_ALREADY:
                    raise

    def close(self) -> None:
        """Close every connection."""
        with self._making:
            for client in self._made.values():
                client.close()
            self._made.clear()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _client(self, *, is_hurried: bool = False) -> Any:
        name = "hurried" if is_hurried else "patient"
        with self._making:
            if name not in self._made:
                self._made[name] = boto3.session.Session().client(
                    "s3",
                    endpoint_url=self._endpoint,
                    region_name=self._region,
                    config=_config(is_hurried=is_hurried, is_own=self._endpoint is not None),
                )
            return self._made[name]

    @contextmanager
    def _answered(self, what: str) -> Iterator[None]:
        """Raise Absent, or StoreAway, for what the client raises."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ABSENT or code in CHANGED or code == "NoSuchUpload":
                raise Absent(str(_away(what, f"it answered {code}")), reason=code) from None
            log.error("the artifact store did not %s: %s", what, error)
            raise _away(what, f"it answered {code or 'an error'}") from error
        except (BotoCoreError, Boto3Error) as error:
            log.error("the artifact store did not %s: %s", what, error)
            raise _away(what, _words(error)) from error


class Absent(StoreAway):
    """There is no such object, or it is no longer the one that was asked for."""


def _config(*, is_hurried: bool, is_own: bool) -> Config:
    return Config(
        connect_timeout=ASK_SECONDS if is_hurried else CONNECT_SECONDS,
        read_timeout=ASK_SECONDS if is_hurried else READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1 if is_hurried else ATTEMPTS},
        max_pool_connections=32,
        # Servers of one's own have one name, and no other for each bucket.
        s3={"addressing_style": "path" if is_own else "auto"},
    )


def _body(body: Any) -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(CHUNK_BYTES)
    finally:
        body.close()


def _words(error: Exception) -> str:
    found = (words for kind, words in WORDS.items() if isinstance(error, kind))
    return next(found, type(error).__name__)


def _away(what: str, reason: str) -> StoreAway:
    return StoreAway(
        f"The artifact store did not {what} ({reason}), and what was asked for may or may not have "
        "been done. Try again in a few seconds; a creation, with the same Idempotency-Key, is made "
        "once.",
        reason=reason,
    )
