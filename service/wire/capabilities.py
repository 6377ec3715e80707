"""What the server says of itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class GraderType(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    description: str
    usable: bool
    """Whether a job may have such a grader here, now."""
    reason: str | None
    """Why it may not, and what to install or set."""
    limitations: list[str]
    """What such a grader cannot do here, a sentence each."""
    json_schema: dict[str, Any]


class PythonGraders(BaseModel):
    """How users' Python is isolated on the machine that answers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    level: str
    """`bwrap`, `landlock` or `sealed`; `none` where the operator did without, `off` if refused."""
    reason: str
    """Why not a stronger one, or why none at all and what to install."""
    landlock_abi: int
    """The version of Landlock in force, 0 without."""
    sealed: bool
    """No file can be opened at all: only modules that were loaded before can be imported."""
    packages: list[str]
    """Of the optional packages, those that graders can import here."""


class DeviceObject(BaseModel):
    """A device that a worker has offered within a day."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    worker: str
    slot: int
    """Which of its worker's devices it is, from 0."""
    kind: str
    """`cpu` or `cuda`."""
    memory_bytes: int | None
    status: Literal["healthy", "unhealthy"]
    """An `unhealthy` one has failed its self-test and takes no job."""
    reason: str | None
    """What is wrong with an unhealthy one."""
    evidence: dict[str, JsonValue] | None
    """All that its last self-test found; null for one that nothing gave a reason to test."""
    tested_at: int | None
    next_test_at: int | None
    """When an unhealthy one is tested again; it takes jobs once it passes."""


class Capabilities(BaseModel):
    graders: list[GraderType]
    python_graders: PythonGraders
    devices: list[DeviceObject]
    """The workers' devices, unhealthy ones first."""
