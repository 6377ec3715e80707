"""Which isolation is chosen, what happens without any, and whose sandboxes are kept."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sandbox_levels import NAMES, at_level, graded, kind_of, python, sandbox_of

from jobs.errors import NoIsolation
from jobs.graders.sandbox import isolation, launch, pools
from jobs.graders.sandbox.inside import seccomp
from jobs.graders.sandbox.inside.lockdown import Limits
from jobs.graders.sandbox.process import LEVELS, CannotIsolate, Sandbox
from jobs.settings import get_settings

SERVER = "python_grader_server_error"


def body(source: str) -> str:
    return f"def grade(sample, item):\n    {source}\n"


def test_a_thread_that_started_a_sandbox_may_end() -> None:
    """The kernel would end the sandbox with it: one thread starts them all, and stays."""
    with at_level(NAMES[0]), ThreadPoolExecutor(1) as threads:
        grader = python(body("return 1"))
        threads.submit(grader.check).result()
        started = sandbox_of(grader)
        threads.shutdown()
        time.sleep(0.2)
        assert started.is_alive
        assert graded(grader, "").reward == 1.0


def test_tenants_share_no_sandbox() -> None:
    with at_level(NAMES[0]):
        pids = []
        for tenant in ("a", "b"):
            with pools.on_behalf_of(tenant):
                grader = python(body("return 1"))
            assert graded(grader, "").reward == 1.0
            pids.append(sandbox_of(grader).pid)
        assert len(set(pids)) == 2


def test_pools_make_room_by_closing_the_longest_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "MAX_POOLS", 2)
    with at_level(NAMES[0]):
        graders = [python(body(f"return {n}")) for n in range(3)]
        for grader in graders:
            grader.check()
        assert len(pools._entries) == 2
        assert [graded(grader, "").reward for grader in graders] == [0.0, 1.0, 2.0]


def test_the_strongest_level_that_works_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with at_level("bwrap"):
        pass
    assert isolation.isolation().level == "bwrap"

    def no_bubblewrap() -> list[str]:
        raise OSError("bubblewrap is not installed")

    monkeypatch.setattr(launch, "_bubblewrap", no_bubblewrap)
    isolation.forget()
    assert isolation.isolation().level == "landlock"
    assert isolation.isolation().landlock_abi > 0
    assert "bubblewrap is not installed" in isolation.isolation().reason
    isolation.forget()


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(isolation, "LEVELS", ())
    pools.close_all()
    isolation.forget()
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()
    pools.close_all()
    isolation.forget()


def test_without_isolation_python_is_refused_with_what_to_do(nothing_works: None) -> None:
    with pytest.raises(NoIsolation, match="Install bubblewrap") as refusal:
        python(body("return 1")).check()
    assert "HONED_UNSAFE_PYTHON_GRADERS" in refusal.value.message
    assert "--unsafe-python-graders-without-isolation" in refusal.value.message
    assert (refusal.value.status, refusal.value.code) == (503, "no_isolation")
    grade = graded(python(body("return 1")), "")
    assert (grade.reward, grade.errors) == (None, {SERVER})


def test_the_operators_opt_in_runs_python_and_shouts(
    nothing_works: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HONED_UNSAFE_PYTHON_GRADERS", "true")
    assert graded(python(body("return 1")), "").reward == 1.0
    assert isolation.isolation().level == "none"
    assert "RUN WITHOUT ISOLATION" in caplog.text
    assert kind_of(graded(python(body("while True: pass")), "")) == "timeout"


def test_a_missing_layer_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox told to go without Landlock and unsealed can read files, and says so."""
    (landlock,) = [level for level in LEVELS if level.name == "landlock"]
    real = Sandbox._config
    monkeypatch.setattr(
        Sandbox, "_config", lambda self, preloaded: {**real(self, preloaded), "landlock": False,
                                                     "readable": [], "uid": 0}
    )  # fmt: skip
    with pytest.raises(CannotIsolate, match="read /etc/passwd"):
        Sandbox(landlock, Limits(5, 15, 512))


def test_the_filters_name_only_calls_that_exist() -> None:
    seccomp.harness_filter(is_sealed=True)
    seccomp.harness_filter(is_sealed=False)
    seccomp.grader_filter()
