"""OpenAI's body of a new job in our words: an older place for three numbers, what is not served."""

from __future__ import annotations

from typing import Any

from jobs.errors import BadRequest, UnknownField
from jobs.hyperparameters import AUTO

# The three that OpenAI knew first; user code still sends them at the top level.
DEPRECATED = ("n_epochs", "batch_size", "learning_rate_multiplier")

# Keys of OpenAI's API that are not served, each with what to do instead.
NOT_SERVED = {
    "integrations": "nothing is sent to other services; read GET "
    "/v1/fine_tuning/jobs/{id}/metrics instead",
}
NOT_SERVED_INSIDE = {
    "tools": "a completion is one answer, without tools; remove it",
    "max_episode_steps": "a completion is one answer, without tools; remove it",
}

# For the OpenAPI document: what a body may hold beside the fields of JobSpec.
OPENAI_ONLY: dict[str, Any] = {
    "properties": {
        "hyperparameters": {
            "deprecated": True,
            "description": "OpenAI's older place for these three; see method.reinforcement.",
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {name: {} for name in DEPRECATED},
                },
                {"type": "null"},
            ],
        },
        "integrations": {
            "description": "None are available.",
            "anyOf": [{"type": "array", "maxItems": 0}, {"type": "null"}],
        },
    }
}


def in_our_words(body: dict[str, Any]) -> dict[str, Any]:
    """The body with only what JobSpec reads. Raises BadRequest for what cannot be honoured."""
    body = _without(body, NOT_SERVED, at="")
    body, older = {**body}, body.get("hyperparameters")
    body.pop("hyperparameters", None)
    method = body.get("method")
    inner = method.get("reinforcement") if isinstance(method, dict) else None
    if not isinstance(method, dict) or not isinstance(inner, dict):
        return body
    inner = _without(inner, NOT_SERVED_INSIDE, at="method.reinforcement.")
    newer = inner.get("hyperparameters")
    if older is not None and (newer is None or isinstance(newer, dict)):
        inner = {**inner, "hyperparameters": _merged(older, newer or {})}
    return {**body, "method": {**method, "reinforcement": inner}}


def _without(body: dict[str, Any], refused: dict[str, str], *, at: str) -> dict[str, Any]:
    """The body without keys that are empty leftovers of OpenAI's; raises for those that are not."""
    for key, sentence in refused.items():
        if body.get(key) not in (None, [], {}):
            kinds = _types(body[key])
            named = f" {kinds}" if kinds else ""
            raise BadRequest(f"'{at}{key}'{named} was refused: {sentence}.", param=f"{at}{key}")
    return {key: value for key, value in body.items() if key not in refused}


def _types(value: object) -> str:
    """The `type` of each entry of a list, as `wandb`."""
    entries = value if isinstance(value, list) else []
    kinds = [str(entry.get("type"))[:40] for entry in entries if isinstance(entry, dict)]
    return f"({', '.join(kinds[:5])})" if kinds else ""


def _merged(older: object, newer: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(older, dict):
        raise BadRequest("'hyperparameters' must be an object.", param="hyperparameters")
    merged = dict(newer)
    for name, value in older.items():
        if name not in DEPRECATED:
            raise UnknownField(
                f"Unknown parameter: 'hyperparameters.{name}'. The top level takes "
                f"{', '.join(DEPRECATED)}; others go into method.reinforcement.hyperparameters.",
                param=f"hyperparameters.{name}",
            )
        if value in (None, AUTO):
            continue
        if newer.get(name) not in (None, AUTO, value):
            raise BadRequest(
                f"'hyperparameters.{name}' is {value!r} and "
                f"method.reinforcement.hyperparameters.{name} is {newer[name]!r}: send one.",
                param=f"hyperparameters.{name}",
            )
        merged[name] = value
    return merged
