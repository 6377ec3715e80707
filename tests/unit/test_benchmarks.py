"""The benchmarks say what they measured: equal tasks on both sides, right ratios, rows kept."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from benchmarks import __main__ as runner
from benchmarks import honed_side, readme, vs_trl
from benchmarks.compare import best, ratios, summary, table
from benchmarks.material import first_eos_id, prepare
from benchmarks.presets import WORKLOADS, Workload, shrunk
from benchmarks.rows import Kind, Row, rows_of
from benchmarks.side import Measured, Step, Task, in_order_of_steps, read_prompts
from worker.grpo.order import take
from worker.grpo.types import Prompt

TINY = WORKLOADS["tiny"]


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def row(name: str, kind: Kind, *, num_warmup_steps: int = 1) -> Row:
    return Row(name=name, kind=kind, module="", options={}, environment={},
               num_warmup_steps=num_warmup_steps, num_steps=3)  # fmt: skip


def step(seconds: float, *, sampling: float = 1.0, training: float = 1.0) -> Step:
    return Step(sampling=sampling, grading=0.0, training=training, end_to_end=seconds,
                lengths=[2, 8], num_groups=1, num_live_groups=1, num_prompt_tokens=4)  # fmt: skip


def measured(*steps: Step, peak_bytes: int = 1) -> Measured:
    return Measured(side="", steps=list(steps), peak_bytes=peak_bytes, settings={})


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS.keys())
def test_presets_build(workload: Workload) -> None:
    assert Workload.from_dict(json.loads(json.dumps(workload.as_dict()))) == workload
    rows = rows_of(workload, device="cpu", micro_batch_tokens=1024)
    assert [one.kind for one in rows][:1] == ["honed"]
    assert {one.kind for one in rows} == {"honed", "best", "defaults"}
    for one in rows[1:]:
        assert workload.num_rollouts % one.options["per_device_train_batch_size"] == 0
    if workload.is_for_gpu:
        names = " ".join(one.name for one in rows)
        assert "own generation" in names
        assert "continuous batching" in names


def test_the_mixed_model_has_25_million_linear_weights() -> None:
    shape = WORKLOADS["mixed"].shape
    assert shape is not None
    assert 24e6 < shape.num_linear_parameters < 28e6


@pytest.mark.parametrize(
    "workload",
    [one for one in WORKLOADS.values() if one.shape and one.name != "tiny"],
    ids=lambda workload: workload.name,
)
def test_lengths_are_30_to_60_percent_of_the_limit(workload: Workload) -> None:
    """Each token ends a completion with probability k / V, as the head makes all ids as likely."""
    assert workload.shape is not None
    p = 1 - first_eos_id(workload) / workload.shape.vocab_size
    limit = workload.max_completion_tokens
    mean = math.fsum((1 - p) ** t for t in range(limit))
    assert 0.3 <= mean / limit <= 0.6
    # Of a step's completions, some reach the limit.
    assert workload.num_rollouts * (1 - p) ** (limit - 1) > 1


@pytest.mark.parametrize("name", ["tiny", "short"])
def test_both_sides_read_the_same_prompts(name: str, tmp_path: Path) -> None:
    """TRL makes ids of text by the folder's tokenizer, in the order that the trainer visits."""
    workload = replace(WORKLOADS[name], num_prompts=2, num_warmup_steps=1, num_steps=2)
    prepare(workload, tmp_path)
    prompts = read_prompts(tmp_path)
    assert len(prompts) == 2 * 3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for prompt in prompts:
        text = prompt["prompt"]
        ids = (
            tokenizer(text)["input_ids"]
            if isinstance(text, str)
            else tokenizer.apply_chat_template(text, add_generation_prompt=True, return_dict=True)[
                "input_ids"
            ]
        )
        assert ids == prompt["ids"]
    rows = [Prompt(index=i, ids=prompt["ids"]) for i, prompt in enumerate(prompts)]
    visited = [
        visit.ids
        for step in range(3)
        for visit in take(rows, start=2 * step, count=2, seed=workload.seed)
    ]
    ordered = in_order_of_steps(prompts, seed=workload.seed)
    assert [prompt["ids"] for prompt in ordered] == visited


def test_the_engine_is_measured_without_the_service() -> None:
    code = (
        "import sys, benchmarks.honed_side; "
        "print([n for n in ('fastapi', 'celery', 'service', 'jobs', 'trl') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=readme.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("_threads")
def test_a_side_tells_every_step(tmp_path: Path) -> None:
    prepare(TINY, tmp_path)
    task = Task(side="Honed", workload=TINY, folder=tmp_path, device="cpu", threads=1,
                options={"micro_batch_tokens": 1024})  # fmt: skip
    task.write(tmp_path / "task")
    assert Task.read(tmp_path / "task") == task
    told = honed_side.run(task)
    told.write(tmp_path / "told")
    assert Measured.read(tmp_path / "told") == told
    assert len(told.steps) == TINY.num_warmup_steps + TINY.num_steps
    for one in told.steps:
        assert len(one.lengths) == TINY.num_rollouts
        assert max(one.lengths) <= TINY.max_completion_tokens
        assert one.sampling > 0
        assert one.training > 0
        assert one.sampling + one.grading + one.training <= one.end_to_end
    assert told.peak_bytes > 100e6


def test_ratios_are_of_medians_behind_the_warm_up_against_the_fastest_tuned_row() -> None:
    ours = summary(
        row("Honed", "honed"),
        measured(step(99.0), step(1.0), step(2.0), step(7.0, training=9.0), peak_bytes=3),
    )
    slow = summary(row("slow", "best"), measured(step(0.1), step(9.0), step(9.0)))
    fast = summary(
        row("fast", "best", num_warmup_steps=2),
        measured(
            step(0.1), step(0.1), step(5.0, sampling=3.0), step(6.0, sampling=4.0),
            step(40.0, sampling=40.0, training=8.0), peak_bytes=4,
        ),
    )  # fmt: skip
    defaults = summary(row("as it comes", "defaults"), measured(step(1.0), step(20.0)))
    everyone = [ours, slow, fast, defaults]
    assert best(everyone) is fast
    assert ratios(everyone) == {
        "ratio_end_to_end": 3.0,  # 6 / 2
        "ratio_sampling": 4.0,
        "ratio_training": 1.0,
        "ratio_tokens_a_second": 3.0,
        "peak_memory_ratio": 0.75,
        "ratio_end_to_end_defaults": 10.0,
        "peak_memory_ratio_defaults": 3.0,
    }
    lines = table(everyone, TINY).splitlines()
    assert ["<- best" in line for line in lines[1:]] == [False, False, True, False]
    assert "5.0/2/8" in lines[1]
    assert "42%" in lines[1]


def test_a_gpu_workload_runs_small_on_a_cpu_and_says_so() -> None:
    flags = vs_trl.parse(["--workload", "qwen3-8b-512"])
    workload = vs_trl.workload_of(flags, "cpu")
    assert workload == shrunk(WORKLOADS["qwen3-8b-512"])
    assert workload.shape is not None
    assert workload.shape.num_linear_parameters < 1e6
    assert vs_trl.workload_of(flags, "cuda") == WORKLOADS["qwen3-8b-512"]


def test_flags_change_the_workload() -> None:
    given = (
        "--workload mixed --model tiny --num-prompts 2 --group-size 4 --prompt-tokens 9 "
        "--max-completion-tokens 16 --lora-rank 8 --dtype bf16 --trl-micro-batches 8 4"
    )
    flags = vs_trl.parse(given.split())
    assert vs_trl.workload_of(flags, "cpu") == replace(
        WORKLOADS["mixed"], shape=TINY.shape, num_prompts=2, group_size=4, prompt_tokens=9,
        max_completion_tokens=16, lora_rank=8, dtype="bf16", trl_micro_batches=(8, 4),
    )  # fmt: skip
    with pytest.raises(SystemExit, match="must divide the 64 completions"):
        vs_trl.workload_of(vs_trl.parse(["--trl-micro-batches", "5"]), "cpu")


def test_a_row_that_fails_says_why(tmp_path: Path) -> None:
    broken = replace(row("broken", "best"), module="benchmarks.nothing")
    with pytest.raises(vs_trl.Failed, match="No module named benchmarks"):
        vs_trl.run_row(broken, TINY, folder=tmp_path, device="cpu", threads=1)


def test_a_benchmarks_row_is_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = runner.last_line(["-c", "print('a table'); print('{\"calls\": 3}')"])
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results")
    runner.keep("graders", told)
    [line] = (tmp_path / "results" / "graders.json").read_text().splitlines()
    kept = json.loads(line)
    assert kept["calls"] == 3
    assert kept["benchmark"] == "graders"
    assert {"machine", "versions", "date"} <= kept.keys()
    with pytest.raises(SystemExit, match="not a JSON object"):
        runner.last_line(["-c", "print('no JSON')"])
    with pytest.raises(SystemExit, match="failed with 3"):
        runner.last_line(["-c", "print('{}'); raise SystemExit(3)"])


def test_every_row_that_is_kept_is_of_a_benchmark() -> None:
    assert {one["benchmark"] for one in readme.rows()} <= runner.COMMANDS.keys()


def test_readmes_table_is_what_the_rows_give() -> None:
    text = readme.README.read_text()
    assert readme.with_section(text, readme.section(readme.rows())) == text


@pytest.mark.slow
def test_against_trl_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert vs_trl.main(["--workload", "tiny", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    result: dict[str, Any] = json.loads(lines[-1])
    for name in ("ratio_end_to_end", "ratio_sampling", "ratio_training", "peak_memory_ratio"):
        assert result[name] > 0
    assert [one["kind"] for one in result["rows"]] == ["honed", "best", "defaults"]
    assert result["failures"] == {}
    assert result["versions"]["trl"].startswith("1.16")
    assert result["workload"] == json.loads(json.dumps(TINY.as_dict()))
    assert sum("<- best" in line for line in lines) == 1
