"""What an artifact store keeps, seen and harmed behind its back: files of a folder, or objects."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import boto3
from servers import CREDENTIALS

from jobs.settings import Settings


class Kept(Protocol):
    """Names are those of `ArtifactStore`, whole paths."""

    def names(self, prefix: str = "") -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


class KeptFiles:
    """Of a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, prefix: str = "") -> list[str]:
        found = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(name for name in map(str, found) if name.startswith(prefix))

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(content)

    def delete(self, name: str) -> None:
        (self.root / name).unlink()


class KeptObjects:
    """Of a bucket."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self.client = client
        _, _, self.bucket, self.prefix = settings.artifacts_url.split("/", 3)

    def names(self, prefix: str = "") -> list[str]:
        whole = f"{self.prefix}/"
        pages = self.client.get_paginator("list_objects_v2").paginate
        found = pages(Bucket=self.bucket, Prefix=whole + prefix).search("Contents[].Key")
        return sorted(key.removeprefix(whole) for key in found if key is not None)

    def read(self, name: str) -> bytes:
        content: bytes = self.client.get_object(**self._at(name))["Body"].read()
        return content

    def write(self, name: str, content: bytes) -> None:
        self.client.put_object(**self._at(name), Body=content)

    def delete(self, name: str) -> None:
        self.client.delete_object(**self._at(name))

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}"}


@contextlib.contextmanager
def kept_by(settings: Settings) -> Iterator[Kept]:
    """The bytes of the store that these settings name."""
    if not settings.artifacts_url:
        yield KeptFiles(settings.artifacts_dir)
        return
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=settings.artifacts_endpoint,
        region_name=settings.artifacts_region,
        **CREDENTIALS,
    )
    with contextlib.closing(client):
        yield KeptObjects(client, settings)
