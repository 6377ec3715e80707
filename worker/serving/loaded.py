"""What every model in this process's memory has: who uses it, and since when nobody does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import torch
from transformers.utils.logging import disable_progress_bar

# A bar of progress is drawn on terminals; in a log it is no line.
disable_progress_bar()


class Loaded:
    """A model from a folder, on the device there is."""

    architecture: Any
    """The `Auto...` class of transformers that loads it."""
    unused: tuple[str, ...] = ()
    """Beginnings of the names of weights that need not be there."""

    def __init__(self, folder: Path) -> None:
        """Safetensors only, no remote code. Raises OSError or ValueError when it cannot be."""
        self.folder = folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, found = self.architecture.from_pretrained(
            folder,
            dtype=torch.bfloat16 if self.device.type == "cuda" else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = [name for name in found["missing_keys"] if not name.startswith(self.unused)]
        if missing:
            # transformers would make random ones up.
            raise ValueError(
                f"its weights lack {', '.join(sorted(missing)[:3])}: it is no model of this kind"
            )
        self.base = cast(Any, model).to(self.device).eval()
        self.num_users = 0
        """Requests that hold it; it is not unloaded while there are any."""
        self.used_at = time.monotonic()
