"""The README holds what a person needs: every setting, by the name that the code reads."""

from pathlib import Path

from jobs.graders.settings import GraderSettings
from service.settings import ServiceSettings

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_every_setting_is_told() -> None:
    fields = [*ServiceSettings.model_fields, *GraderSettings.model_fields]
    names = {f"HONED_{name.upper()}" for name in fields}
    assert {name for name in names if f"`{name}`" not in README} == set()
