"""The scaled topology with a machine for each part: no two share a folder, all share a bucket."""

from pathlib import Path

from gate import Gate
from kept import KeptObjects
from scaled import Scaled, own_servers
from servers import CREDENTIALS, ObjectServer, free_port
from waiting import wait_for

from jobs.settings import Settings


class Apart(Scaled):
    """Each part has a data folder of its own. The way to the bucket can be cut."""

    def __init__(self, folder: Path) -> None:
        self.objects = ObjectServer()
        self.objects.start()
        self.gate = Gate(self.objects.port)
        place = self.objects.new_bucket()
        self.client_of_objects = self.objects.client()
        self.kept = KeptObjects(self.client_of_objects, Settings(**place))
        serving_port = free_port()
        postgresql, redis = own_servers()
        super().__init__(
            folder,
            postgresql,
            redis,
            # From its claim to its first renewal a worker may take some seconds.
            HONED_LEASE_SECONDS="12",
            HONED_ARTIFACTS_URL=place["artifacts_url"],
            HONED_ARTIFACTS_ENDPOINT=self.gate.url,
            HONED_ARTIFACTS_REGION=place["artifacts_region"],
            HONED_SERVING_URL=f"http://127.0.0.1:{serving_port}",
            HONED_SERVING_LISTEN=f"127.0.0.1:{serving_port}",
            HONED_SERVING_TOKEN="a-token-of-the-tests",
            AWS_EC2_METADATA_DISABLED="true",
            **{name.upper(): value for name, value in CREDENTIALS.items()},
        )

    def data_dir(self, name: str) -> Path:
        folder = self.folder / f"machine-{name}"
        folder.mkdir(exist_ok=True)
        return folder

    def left_behind(self, name: str) -> list[Path]:
        """What of artifacts lies on a machine, beside the cache for chat."""
        root = self.data_dir(name)
        on_the_way = (root / "artifacts-cache" / "tmp").glob("*")
        return [*on_the_way, *(root / "artifacts").rglob("*")]

    def close(self) -> None:
        super().close()
        self.gate.close()
        self.client_of_objects.close()
        self.objects.remove()


def start(folder: Path) -> Apart:
    """A stack without a worker; it answers when this returns."""
    stack = Apart(folder)
    wait_for(stack.is_ready, seconds=60, what="the service to be ready")
    return stack
