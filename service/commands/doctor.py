"""`honed doctor`: what is wrong with this machine's part of a stack, and how to mend it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from service.commands.common import Data, sentences, settings_of
from service.doctor import machine, processes, stores
from service.doctor.checkup import Check, Finding, examine

CHECKS = (
    Check("database", stores.database),
    Check("broker", stores.broker),
    Check("artifacts", stores.artifact_store),
    Check("free space", stores.free_space),
    Check("device", machine.device),
    Check("sandbox", machine.sandbox),
    Check("clock", machine.clock),
    Check("service", processes.service),
    Check("sweeper", processes.sweeper),
    Check("workers", processes.workers),
    Check("chat", processes.chat),
)


def doctor(
    data: Data = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Look at all that a stack stands on; exit code 1 where something is broken."""
    with sentences():
        settings = settings_of(data)
    found = examine(settings, CHECKS)
    num_failed = sum(one.status == "fail" for one in found.values())
    typer.echo(_json(found) if as_json else _text(found))
    raise typer.Exit(1 if num_failed else 0)


def _json(found: dict[str, Finding]) -> str:
    is_ok = all(one.status != "fail" for one in found.values())
    checks = [{"name": name, **asdict(one)} for name, one in found.items()]
    return json.dumps({"ok": is_ok, "checks": checks}, indent=1)


def _text(found: dict[str, Finding]) -> str:
    lines = []
    for name, one in found.items():
        word = one.status.upper() if one.status == "fail" else one.status
        lines.append(f"{word:<5} {name:<11} {one.found}")
        if one.mend:
            lines.append(f"{'':<18}{one.mend}")
    wrong = [name for name, one in found.items() if one.status == "fail"]
    lines.append(f"Broken: {', '.join(wrong)}." if wrong else "Nothing is broken.")
    return "\n".join(lines)
