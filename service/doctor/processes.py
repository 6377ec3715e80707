"""Whether the processes of a stack are alive: service, sweeper, workers, the one behind chat."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import httpx2
from sqlalchemy.exc import SQLAlchemyError

from jobs import alive, serving
from jobs.db import connect, session_factory
from jobs.store import jobs
from service.doctor.checkup import Finding, fail, ok, warn
from service.doctor.stores import is_missing
from service.settings import ServiceSettings

# It gives up on a database by itself before that.
ANSWER_SECONDS = 25.0


def service(settings: ServiceSettings) -> Finding:
    """The service answers, and all that it needs is there."""
    url = f"{settings.own_url}/readyz"
    try:
        with _direct().open(url, timeout=ANSWER_SECONDS) as response:
            return ok(f"{url} says {json.load(response)['status']}.")
    except urllib.error.HTTPError as error:
        return _not_ready(url, error)
    except (OSError, ValueError, KeyError) as error:
        return warn(
            f"No service answers at {url}: {error}",
            "Start it with `honed up` or `python -m service.serve`. On a machine that only trains "
            "this is as it should be; HONED_HOST and HONED_PORT say where it is looked for.",
        )


def _not_ready(url: str, error: urllib.error.HTTPError) -> Finding:
    with error:
        said = error.read().decode(errors="replace")
    try:
        checks = dict(json.loads(said)["checks"])
    except (ValueError, KeyError, TypeError):
        return fail(
            f"{url} answers {error.code}, as a service of Honed does not.",
            "Another program has the port: choose one with HONED_PORT.",
        )
    wrong = "; ".join(f"{name}: {found}" for name, found in checks.items() if found != "ok")
    return fail(f"{url} answers {error.code}: {wrong}", "Mend what it names; it goes on by itself.")


def sweeper(settings: ServiceSettings) -> Finding:
    """A sweeper has given a sign lately."""
    return _signs(
        settings,
        "sweeper",
        "Start it with `honed up` or `python -m service.sweeper`: without one the jobs of lost "
        "workers stay where they are.",
    )


def workers(settings: ServiceSettings) -> Finding:
    """Workers have given signs lately; with none, whether jobs wait for one."""
    found = _signs(settings, "worker", "Start one with `honed up` or `python -m worker`.")
    num_waiting = _num_waiting(settings) if found.status == "warn" else 0
    if num_waiting and not _ages(settings, "worker", is_alive=True):
        return fail(f"{found.found} {num_waiting} jobs wait.", found.mend or "")
    return found


def _signs(settings: ServiceSettings, name: str, mend: str) -> Finding:
    well = _ages(settings, name, is_alive=True)
    ill = _ages(settings, name, is_alive=False)
    if ill:
        shown = ", ".join(f"{machine} ({age:.0f} s ago)" for machine, age in ill.items())
        gone = " ".join(str(alive.file_of(settings, name, machine)) for machine in ill)
        return warn(
            f"No sign any more of {name} {shown}.",
            f"See its log. {mend} Was it taken away for good: rm {gone}",
        )
    if not well:
        return warn(f"No {name} has given a sign in {settings.run_dir}.", mend)
    return ok(", ".join(f"{machine} {age:.0f} s ago" for machine, age in well.items()) + ".")


def _ages(settings: ServiceSettings, name: str, *, is_alive: bool) -> dict[str, float]:
    ages = alive.ages(settings, name)
    return {
        machine: age for machine, age in ages.items() if (age <= alive.STALE_SECONDS) is is_alive
    }


def _num_waiting(settings: ServiceSettings) -> int:
    if is_missing(settings):
        return 0
    engine = connect(settings.sqlalchemy_url)
    try:
        with session_factory(engine)() as session:
            return jobs.num_for_a_worker(session)
    except SQLAlchemyError:
        return 0  # the database is a finding of its own
    finally:
        engine.dispose()


def chat(settings: ServiceSettings) -> Finding:
    """The serving process answers, where one was started."""
    where = serving.address(settings)
    if where is None:
        return ok("Not started yet: `honed up` starts the serving process when it is first asked.")
    try:
        with httpx2.Client(trust_env=False, verify=False, timeout=5.0) as client:
            response = client.get(
                f"{where.url}{serving.LIVE_PATH}",
                headers={"Authorization": f"Bearer {where.token}"},
            )
    except httpx2.TransportError as error:
        return warn(
            f"The serving process at {where.url} does not answer: {error or type(error).__name__}",
            "Only chat and graders that ask models need it. `honed up` starts it anew by itself; "
            "elsewhere start `python -m worker.serve`.",
        )
    if response.status_code != 200:
        return fail(
            f"The serving process at {where.url} answers {response.status_code}.",
            "Set the same HONED_SERVING_TOKEN for it and for the service.",
        )
    return ok(f"{where.url} answers.")


def _direct() -> urllib.request.OpenerDirector:
    """Never by a proxy."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
