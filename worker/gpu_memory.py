"""How much of its GPU's memory is in use, as the trainer says it beside its progress."""

from __future__ import annotations

import os
import sys

from jobs.models import Json


def gpu_memory() -> Json | None:
    """The GPU by the name that its slot gives it, and its bytes; None without one in use.

    In use by whatever runs on it, as the driver counts. It never starts CUDA.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    free, total = torch.cuda.mem_get_info()
    device = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
    return {"device": device, "used_bytes": total - free, "total_bytes": total}
