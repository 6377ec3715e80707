"""A serving process in which a model of the name `slow` takes ten minutes to load."""

import sys
import time
from pathlib import Path

from worker.serve import main
from worker.serving.hosted import HostedModel

load = HostedModel.__init__


def slowly(self: HostedModel, folder: Path) -> None:
    if folder.name == "slow":
        (folder / "loading").touch()
        time.sleep(600)
    load(self, folder)


HostedModel.__init__ = slowly  # type: ignore[method-assign]
sys.exit(main())
