"""What was trained is sampled through the same stack, also while another job trains."""

import json
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from embedded import Stack

from jobs import starter
from jobs.registry import STARTER_FOLDER

ROWS = starter.arithmetic_rows(24, seed=5, split="valid")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_tuned_model_and_its_checkpoint_answer_while_another_job_trains(
    stack: Stack, tmp_path: Path
) -> None:
    done = stack.create_job(max_steps=6, eval_interval=3, learning_rate=2e-3)
    job = stack.wait_for_status(done, "succeeded", seconds=300)
    final = job["fine_tuned_model"]
    saved = stack.get(f"/fine_tuning/jobs/{done}/checkpoints")["data"]
    early = next(one for one in saved if one["step_number"] == 3)
    busy = stack.create_job(max_steps=20000, checkpoint_interval=50)
    stack.wait_for_step(busy, 1)

    client = stack.client.with_options(max_retries=20)  # the serving process starts meanwhile
    names = ["honed/starter", early["fine_tuned_model_checkpoint"], final]
    answers = {name: [_answer(client, name, row) for row in ROWS] for name in names}
    assert stack.job(busy)["status"] == "running"

    plain = _plain_answers(stack.adapter(done, tmp_path / "adapter"), tmp_path / "rows.jsonl")
    assert answers["honed/starter"] == [one["base"] for one in plain]
    assert answers[final] == [one["tuned"] for one in plain]
    assert len({tuple(said) for said in answers.values()}) == 3

    before = stack.job(busy)["step"]
    stack.wait_for_step(busy, before + 1)
    stack.client.fine_tuning.jobs.cancel(busy)
    stack.wait_for_status(busy, "cancelled")
    steps = [
        one["step_number"] for one in stack.get(f"/fine_tuning/jobs/{busy}/checkpoints")["data"]
    ]
    tuned = f"{final.rpartition(':')[0]}:{busy.removeprefix('ftjob-')}"
    assert _answer(client, f"{tuned}:ckpt-step-{steps[0]}", ROWS[0])
    with pytest.raises(openai.NotFoundError):
        _answer(client, tuned, ROWS[0])


def _answer(client: openai.OpenAI, model: str, row: dict) -> str:
    answer = client.chat.completions.create(
        model=model, messages=row["messages"], temperature=0, max_tokens=16
    )
    return answer.choices[0].message.content


def _plain_answers(adapter: Path, rows: Path) -> list[dict[str, str]]:
    """What transformers and PEFT alone say, base and adapter, greedily."""
    rows.write_text("".join(json.dumps({"messages": row["messages"]}) + "\n" for row in ROWS))
    options = ["--base", str(STARTER_FOLDER), "--adapter", str(adapter), "--rows", str(rows)]
    evaluated = subprocess.run(
        [sys.executable, "-m", "worker.evaluate", *options, "--max-tokens", "16"],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(evaluated.stdout)
