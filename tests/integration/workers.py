"""A worker of its own process on a test's database, and jobs for it to validate and run."""

import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastapi.testclient import TestClient

# As compose gives it.
GRACE_SECONDS = 60

Worker = subprocess.Popen[bytes]
Start = Callable[[], AbstractContextManager[Worker]]


def posted(client: TestClient, **asked: Any) -> str:
    """A job on the starter model, in validation."""
    files = {"file": ("rows.jsonl", b'{"messages": [{"role": "user", "content": "1 + 1"}]}\n')}
    file = client.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()
    grader = {"type": "length", "input": "{{sample.output_text}}", "unit": "words", "max": 2}
    body = {
        "model": "honed/starter",
        "training_file": file["id"],
        "method": {
            "type": "reinforcement",
            "reinforcement": {"grader": grader, "hyperparameters": asked},
        },
    }
    answer = client.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])
