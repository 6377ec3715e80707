"""The OpenAPI document: what FastAPI derives, with the bodies it does not see.

`python -m service.openapi` writes docs/openapi.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from jobs.spec import JobSpec
from service.settings import ServiceSettings
from service.wire.chat import ChatRequest
from service.wire.graders import RunGraderBatchRequest, RunGraderRequest, ValidateGraderRequest
from service.wire.permissions import CreatePermissionsRequest
from service.wire.uploads import CompleteUploadRequest, CreateUploadRequest

# Bodies that routes read themselves, after the key was checked.
BODIES = (
    JobSpec,
    ValidateGraderRequest,
    RunGraderRequest,
    RunGraderBatchRequest,
    CreateUploadRequest,
    CompleteUploadRequest,
    CreatePermissionsRequest,
    ChatRequest,
)


def document(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        app.openapi_schema = _build(app)
    return app.openapi_schema


def _build(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, definitions = models_json_schema(
        [(model, "validation") for model in BODIES],
        ref_template="#/components/schemas/{model}",
    )
    components = schema["components"]["schemas"]
    components.update(definitions["$defs"])
    # FastAPI promises 422 wherever it validates; here those are 400 in the envelope.
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for path in schema["paths"].values():
        for operation in path.values():
            if _is_fastapis(operation["responses"].get("422")):
                del operation["responses"]["422"]
    return schema


def _is_fastapis(answer: dict[str, Any] | None) -> bool:
    return answer is not None and "HTTPValidationError" in json.dumps(answer)


def rendered(app: FastAPI) -> str:
    """The document as it is kept in docs/openapi.json."""
    return json.dumps(document(app), indent=1, ensure_ascii=True) + "\n"


def main() -> None:
    """Write the document to the path given, or to docs/openapi.json."""
    from service.app import create_app  # noqa: PLC0415 - the app imports this module

    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/openapi.json")
    with TemporaryDirectory() as folder:
        app = create_app(ServiceSettings(data_dir=Path(folder)))
        target.write_text(rendered(app))
        app.state.resources.close()


if __name__ == "__main__":
    main()
