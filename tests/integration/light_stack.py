"""`honed up` without a worker, which takes seconds to start and to stop."""

from pathlib import Path
from sys import argv

from service.settings import ServiceSettings
from service.up import commands, up


def main() -> None:
    settings = ServiceSettings(data_dir=Path(argv[1]), port=int(argv[2]))

    def say(line: str) -> None:
        print(line, flush=True)  # noqa: T201

    up(settings, say, lambda settings: [one for one in commands(settings) if one.name != "worker"])


main()
