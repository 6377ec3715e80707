"""The house's own rules: files stay short, every file says why it is there."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 300
MAX_FUNCTION_LINES = 50


def python_files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    # A merge under way lists a file once for each side.
    return sorted({name for name in listed.stdout.split() if (ROOT / name).exists()})


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_files_stay_short() -> None:
    lengths = {name: len((ROOT / name).read_text().splitlines()) for name in python_files()}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_functions_stay_short() -> None:
    long = {
        f"{name}:{function.name}": length
        for name in python_files()
        if name.startswith(("jobs/", "service/", "worker/"))
        for function in functions(ast.parse((ROOT / name).read_text()))
        if (length := (function.end_lineno or 0) - function.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert long == {}


@pytest.mark.parametrize("room", ["jobs", "service", "worker"])
def test_every_file_says_why_it_is_there(room: str) -> None:
    silent = [
        name
        for name in python_files()
        if name.startswith(f"{room}/")
        and not ast.get_docstring(ast.parse((ROOT / name).read_text()))
    ]
    assert silent == []


def test_the_tree_in_the_docs_is_the_tree() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = ("jobs/", "service/", "worker/")
    missing = [
        name
        for name in python_files()
        if name.startswith(rooms)
        and not name.endswith("__init__.py")
        and Path(name).name not in text
    ]
    assert missing == []
    lines = [line for line in text.splitlines() if line.startswith("  ") and ".py " in line]
    assert sorted(set(lines)) == sorted(lines), "a file stands in the tree twice"
