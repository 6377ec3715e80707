"""What tests of `honed doctor` say of a finding."""

from service.doctor.checkup import Finding
from service.settings import ServiceSettings


def assert_broken(finding: Finding, found: str, mend: str) -> None:
    assert finding.status == "fail", finding
    assert found in finding.found
    assert mend in (finding.mend or "")


def with_url(settings: ServiceSettings, url: str) -> ServiceSettings:
    return ServiceSettings(data_dir=settings.data_dir, database_url=url)
