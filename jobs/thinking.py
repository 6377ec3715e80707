"""How hard a model is asked to think: its chat template's switch, and the room for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

Effort = Literal["default", "low", "medium", "high"]
ChatEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]

# Tokens that a completion has at least where the effort is named and the limit is not.
COMPLETION_TOKENS: dict[Effort, int] = {"low": 1024, "medium": 4096, "high": 8192}

# Variables by which templates are told: the effort itself, or thinking on and off.
_OFF = ("none", "minimal")
_LEVEL, _SWITCHES = "reasoning_effort", ("enable_thinking", "thinking")
_BLOCK = re.compile(r"\{[%{].*?[%}]\}", re.DOTALL)


def arguments(template: str, effort: Effort | ChatEffort) -> dict[str, Any]:
    """What a chat template is given besides the messages. Raises ValueError with the reason.

    "default" leaves the template at its own default; "none" and "minimal" switch thinking off.
    """
    if effort == "default":
        return {}
    if _reads(template, _LEVEL):
        if effort not in COMPLETION_TOKENS:
            known = ", ".join(COMPLETION_TOKENS)
            raise ValueError(
                f"reasoning_effort is {effort!r}, and this model's chat template knows {known}"
            )
        return {_LEVEL: effort}
    for switch in _SWITCHES:
        if _reads(template, switch):
            return {switch: effort not in _OFF}
    raise ValueError(
        f"reasoning_effort is {effort!r}, and this model's chat template has no thinking switch "
        "to set: leave it out, or name a model that thinks"
    )


def _reads(template: str, name: str) -> bool:
    """Whether a template's code reads this variable (not a field or a text of that name)."""
    variable = re.compile(rf"(?<![\w.'\"]){name}(?![\w'\"])")
    return any(variable.search(block) for block in _BLOCK.findall(template))


def template_in(folder: Path) -> str | None:
    """The chat template of a model's folder; None where only its tokenizer can tell."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text()
    configuration = folder / "tokenizer_config.json"
    if not configuration.is_file():
        return None
    template = json.loads(configuration.read_text()).get("chat_template")
    return template if isinstance(template, str) else None
