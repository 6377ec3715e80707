"""Reading whole pieces from pipes whose other end may go away."""

import os


def read_exactly(descriptor: int, count: int) -> bytes:
    """That many bytes; ends the process when whoever asked for it has gone."""
    parts = []
    while count:
        part = os.read(descriptor, min(count, 1 << 20))
        if not part:
            os._exit(0)
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
