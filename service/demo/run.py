"""The demo's course: start, upload, train, download, compare. Only the public API is used."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import openai
from rich.console import Console

from jobs.registry import STARTER
from service.demo.compare import DemoFailed, compare
from service.demo.rewards import Reward
from service.demo.stack import Stack, embedded_stack
from service.demo.view import JobView, result_table

EVAL_SAMPLES = 100
GROUP_EVERY_STEPS = 10
POLL_SECONDS = 0.5


def run(folder: Path, console: Console, *, reward: Reward) -> dict[str, Any]:
    """The whole demo; the last line's JSON object. Raises DemoFailed. Stops what it started."""
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    console.print("Starting service, sweeper and worker ...")
    with embedded_stack(folder / "data") as stack:
        client = openai.OpenAI(base_url=stack.base_url, api_key=stack.api_key)
        job = _create_job(client, folder, reward)
        console.print(f"Created {job.id} on {STARTER}: {reward.max_steps} steps")
        _follow(client, job, console)
        adapter, digest = _download(stack, job.id, folder)
    console.print("Comparing base and adapter on the held-out rows ...")
    compared = compare(folder / "held_out.jsonl", adapter, reward)
    seconds = time.monotonic() - started
    first = compared[0]
    lines = [line for comparison in compared for line in comparison.lines()]
    how = "sampled" if reward.is_sampled else "greedy"
    result_table(
        console,
        f"{first.count} held-out rows, {how} answers",
        [*lines, ("time", f"{seconds:.0f} s")],
    )
    return {
        "job_id": job.id,
        "status": "succeeded",
        "baseline": round(first.before, 4),
        "tuned": round(first.after, 4),
        "n": first.count,
        "interval": [round(first.low, 4), round(first.high, 4)],
        "seconds": round(seconds, 1),
        "adapter": str(adapter),
        "adapter_sha256": digest,
    }


def _create_job(client: openai.OpenAI, folder: Path, reward: Reward) -> Any:
    ids = {}
    for name, rows in zip(("training", "held_out"), reward.rows(), strict=True):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with path.open("rb") as file:
            ids[name] = client.files.create(file=file, purpose="fine-tune").id
    return client.fine_tuning.jobs.create(
        model=STARTER,
        training_file=ids["training"],
        validation_file=ids["held_out"],
        seed=1,
        method={  # type: ignore[arg-type] # the client's types know fewer graders than the server
            "type": "reinforcement",
            "reinforcement": {
                "grader": reward.grader,
                "hyperparameters": {
                    "max_steps": reward.max_steps,
                    "max_completion_tokens": reward.max_tokens,
                    "eval_samples": EVAL_SAMPLES,
                    "eval_pass_k": 1,
                },
            },
        },
    )


def _follow(client: openai.OpenAI, job: Any, console: Console) -> None:
    """Show the job until it ends. Raises DemoFailed when it does not succeed."""
    path = f"/fine_tuning/jobs/{job.id}"
    seen, reward = -1, None
    with JobView(console) as view:
        while True:
            state: Any = client.get(path, cast_to=object)
            rows: Any = client.get(
                f"{path}/metrics", cast_to=object, options={"params": {"after_step": seen}}
            )
            for row in rows["data"]:
                seen, reward = row["step"], row.get("reward", reward)
                if seen and (seen % GROUP_EVERY_STEPS == 0 or seen == 1):
                    samples: Any = client.get(
                        f"{path}/samples", cast_to=object, options={"params": {"step": seen}}
                    )
                    view.group(row, _telling_group(samples["data"]), state["total_steps"])
            view.update(state, reward)
            if state["status"] == "succeeded":
                return
            if state["status"] in ("failed", "cancelled", "paused"):
                raise DemoFailed(f"Job {job.id} ended {state['status']}: {state['error']}")
            time.sleep(POLL_SECONDS)


def _telling_group(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One prompt's siblings: those whose rewards differ most, the first of equals."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["row"], []).append(sample)

    def spread(group: list[dict[str, Any]]) -> float:
        advantages = [sample["advantage"] for sample in group]
        return float(max(advantages) - min(advantages))

    return max(groups.values(), key=spread)


def _download(stack: Stack, job_id: str, folder: Path) -> tuple[Path, str]:
    """The adapter's folder, and the archive's sha256 held against what the server says."""
    archive = folder / "adapter.tar"
    request = urllib.request.Request(
        f"{stack.base_url}/fine_tuning/jobs/{job_id}/adapter",
        headers={"Authorization": f"Bearer {stack.api_key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response, archive.open("wb") as file:
        promised = response.headers["ETag"].strip('"')
        shutil.copyfileobj(response, file)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != promised:
        raise DemoFailed(f"The adapter's sha256 is {digest}, the server promised {promised}.")
    adapter = folder / "adapter"
    shutil.rmtree(adapter, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(adapter, filter="data")
    return adapter, digest
