"""What a user does over HTTP, whatever the stack behind the address looks like."""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any

import openai
from waiting import wait_for

from jobs import starter
from jobs.registry import STARTER_FOLDER

# Jobs are compared by their bytes, and each would choose its threads by what the machine is doing.
SAME_BYTES = {"OMP_NUM_THREADS": "1"}

TERMINAL = ("succeeded", "failed", "cancelled")

GRADER = {
    "type": "multi",
    "graders": {
        "correct": {
            "type": "string_check",
            "input": "{{sample.output_text}}",
            "reference": "{{item.answer}}",
            "operation": "eq",
        },
        "short": {
            "type": "length",
            "input": "{{sample.output_text}}",
            "unit": "characters",
            "max": 6,
        },
    },
    "calculate_output": "0.9 * correct + 0.1 * short",
}


class User:
    """The unmodified client, and patience."""

    def __init__(self, port: int, key_file: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key_file.read_text().strip())

    def is_ready(self) -> bool:
        """Whether the service says that all it needs is there."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def upload(self, rows: list[dict[str, Any]]) -> str:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        return self.client.files.create(file=("rows.jsonl", text.encode()), purpose="fine-tune").id

    def create_job(
        self,
        *,
        model: str = "honed/starter",
        grader: dict[str, Any] = GRADER,
        limits: dict[str, Any] | None = None,
        **hyperparameters: Any,
    ) -> str:
        """A job with small evaluations."""
        body = {
            "max_steps": 20,
            "max_completion_tokens": 16,
            "eval_samples": 32,
            **hyperparameters,
        }
        return self.client.fine_tuning.jobs.create(
            model=model,
            training_file=self.upload(starter.arithmetic_rows(400, seed=3, split="train")),
            validation_file=self.upload(starter.arithmetic_rows(64, seed=3, split="valid")),
            seed=11,
            extra_body={"limits": limits},
            method={
                "type": "reinforcement",
                "reinforcement": {"grader": grader, "hyperparameters": body},
            },
        ).id

    def get(self, path: str, **params: Any) -> Any:
        return self.client.get(path, cast_to=object, options={"params": params})

    def job(self, job_id: str) -> Any:
        return self.get(f"/fine_tuning/jobs/{job_id}")

    def metrics(self, job_id: str) -> list[dict[str, Any]]:
        return self.get(f"/fine_tuning/jobs/{job_id}/metrics", after_step=-1, limit=1000)["data"]

    def wait_for_status(self, job_id: str, *wanted: str, seconds: float = 120) -> Any:
        def reached() -> Any:
            job = self.job(job_id)
            if job["status"] in wanted:
                return job
            assert job["status"] not in TERMINAL, f"ended {job['status']}: {job['error']}"
            return None

        return wait_for(reached, seconds=seconds, what=f"{job_id} to be {' or '.join(wanted)}")

    def wait_for_step(self, job_id: str, step: int, *, seconds: float = 120) -> Any:
        def reached() -> Any:
            job = self.job(job_id)
            assert job["status"] not in TERMINAL, f"ended {job['status']}: {job['error']}"
            return job if job["step"] >= step else None

        return wait_for(reached, seconds=seconds, what=f"{job_id} to reach step {step}")

    def adapter(self, job_id: str, target: Path) -> Path:
        """Download and unpack a job's adapter."""
        request = urllib.request.Request(
            f"{self.url}/v1/fine_tuning/jobs/{job_id}/adapter",
            headers={"Authorization": f"Bearer {self.client.api_key}"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            archive = response.read()
        assert response.headers["ETag"] == f'"{hashlib.sha256(archive).hexdigest()}"'
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(target, filter="data")
        return target


def weights_sha256(adapter: Path) -> str:
    """The sha256 of an unpacked adapter's weights."""
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def assert_each_step_once(rows: list[dict[str, Any]], total: int) -> None:
    """The metrics have every step from the first evaluation to the last, in order."""
    assert [row["step"] for row in rows] == list(range(total + 1))


def loads_in_peft(adapter: Path) -> None:
    """The adapter loads, in a process that knows nothing of this project, and has learned."""
    code = (
        "import sys\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        "base = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "model = PeftModel.from_pretrained(base, sys.argv[2])\n"
        "assert any(p.abs().sum() > 0 for n, p in model.named_parameters() if 'lora_B' in n)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(STARTER_FOLDER), str(adapter)], check=True, cwd=adapter
    )
