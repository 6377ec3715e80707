"""Text that a grader runs as code: its author is told, and no other row is in its reach."""

import os
from collections.abc import Iterator

import pytest
from sandbox_levels import NAMES, at_level, graded, python

from jobs.graders import Sample, parse_grader
from jobs.graders.python import RAN_TEXT
from jobs.graders.sandbox import pools
from jobs.graders.sandbox.inside.records import RAN_TEXT as MARK
from jobs.graders.sandbox.inside.watching import watch

# No word of it is one that a search for `exec` would find.
HIDDEN = """
import builtins
def grade(sample, item):
    names = {"item": item}
    getattr(builtins, "ex" + "ec")(sample["output_text"], names)
    return names.get("reward", 0.25)
"""
OPEN = """
def grade(sample, item):
    names = {"item": item}
    exec(sample["output_text"], names)
    return names.get("reward", 0.25)
"""
# By its caller's frames: the answer, the nonce of its row, and the very channel of the verdict.
FORGES = """
import os, struct, sys
frame = sys._getframe()
while "nonce" not in frame.f_locals:
    frame = frame.f_back
paid = 9.0 if item["answer"] == "secret" else 8.0
os.write(4, struct.pack("<QBIHHd", frame.f_locals["nonce"], 0, 0, 1, 0, paid))
import time
time.sleep(60)
"""
# Waits in the process for whoever comes next.
STAYS = """
import builtins, json, sys
frame = sys._getframe()
while frame:
    if "checked" in frame.f_locals:
        frame.f_globals["_checker"] = None
    if "grade" in frame.f_globals:
        frame.f_globals["grade"].__code__ = (lambda sample, item: 7.0).__code__
    frame = frame.f_back
"""


@pytest.fixture(scope="module", params=NAMES)
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    with at_level(request.param):
        yield request.param


@pytest.mark.parametrize("source", [OPEN, HIDDEN], ids=["open", "hidden"])
def test_a_completion_that_forges_its_own_verdict_gets_no_other(level: str, source: str) -> None:
    """Its own it gets: the label lies beside it. That is told, and no sibling is touched."""
    grader, other = python(source, calls_per_process=8), python("def grade(s, i): return 0.5")
    grader.check()

    forged = graded(grader, FORGES, answer="secret")

    assert forged.reward == 9.0
    assert forged.incidents == {RAN_TEXT: 1}
    siblings = [graded(grader, "", answer=str(n)).reward for n in range(8)]
    assert siblings == [0.25] * 8
    assert graded(other, "").reward == 0.5
    if source == OPEN:
        (warning,) = grader.warnings
        assert 'line 4 (exec): `exec(sample["output_text"], names)`' in warning
        assert "run_code(text)" in warning
        assert "calls_per_process is 1 then, not 8" in warning


def test_a_process_that_ran_a_text_serves_no_further_row(level: str) -> None:
    grader = python(HIDDEN, calls_per_process=1024)
    assert graded(grader, STAYS).reward == 0.25
    after = [graded(grader, "") for _ in range(4)]
    assert [grade.reward for grade in after] == [0.25] * 4
    counts = python("n = 0\ndef grade(s, i):\n    global n\n    n += 1\n    return n")
    assert [graded(counts, "").reward for _ in range(3)] == [1.0, 2.0, 3.0]


def test_what_a_module_runs_of_its_own_is_no_text_and_it_cannot_stop_the_watch(level: str) -> None:
    grader = python(
        "import collections, sys\nP = collections.namedtuple('P', 'x y')\n"
        "def veto(event, _):\n    if event == 'sys.addaudithook': raise RuntimeError\n"
        "sys.addaudithook(veto)\n" + HIDDEN
    )
    assert graded(grader, "").incidents == {RAN_TEXT: 1}
    quiet = python("import collections\nP = collections.namedtuple('P', 'x y')\n"
                   "def grade(s, i): return P(1, 2).y")  # fmt: skip
    assert graded(quiet, "").incidents == {}


def test_the_mark_is_made_before_the_text_and_nothing_unmakes_it(level: str) -> None:
    """A text that closes the channel, or floods it, comes too late."""
    grader = python(HIDDEN, calls_per_process=32)
    for text in ("import os; os.close(4)", "import os\nwhile True: os.write(4, b'ran text')"):
        grade = graded(grader, text)
        assert (grade.reward, grade.incidents) == (None, {RAN_TEXT: 1})
        assert graded(grader, "").reward == 0.25


TRICKS = {
    "timeit": "import timeit; timeit.timeit('1', number=1)",
    "runpy": "import runpy; runpy.run_path('/dev/null')",
    "bdb": "import bdb; bdb.Bdb().run('1')",
    "code": "import code; code.InteractiveInterpreter().runsource('1')",
    "a loader of one's own": """
import importlib.machinery
class Loader(importlib.machinery.SourceFileLoader):
    def get_data(self, path): return b'x = 1'
    def path_stats(self, path): raise OSError
Loader('m', '/nowhere/m.py').exec_module(type(importlib)('m'))
""",
    "marshal": "import marshal; marshal.loads(marshal.dumps((lambda: 0).__code__))",
    "code by hand": "f = lambda: 0; f.__code__.replace(co_name='g')",
    "a function by hand": "import types; types.FunctionType((lambda: 0).__code__, {})",
    "pickle": "import pickle; pickle.loads(pickle.dumps(len))",
    "ctypes": "import ctypes; ctypes.string_at(b'a')",
    "namedtuple": "import collections; collections.namedtuple('P', 'x y')",
    "parsing": "import ast; ast.parse('1')",
}
HARMLESS = {
    "re": "import re; re.compile('a(b+)[0-9]{3}').sub('', 'abb123'); re.findall('x', 'xx')",
    "json": "import json; json.loads(json.dumps({'a': [1, 2.5]}))",
    "a literal": "import ast; ast.literal_eval('[1, {2: 3}]')",
    "an import": "import wave, sqlite3, xml.dom.minidom, asyncio, zoneinfo, mailbox, imaplib",
    "numpy": "import numpy; numpy.mean([1, 2])",
    "strptime": "import datetime; datetime.datetime.strptime('2020', '%Y')",
}


def marked_by(deed: str) -> bytes:
    """What a watched process tells while it does this, as compiled code of its own."""
    code = compile(deed, "<grader>", "exec")
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            run = type(marked_by)(code, {"__builtins__": __builtins__, "__name__": "grader"})
            watch(os.write, tell)()
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    os.close(tell)
    with os.fdopen(told, "rb") as file:
        said = file.read()
    assert os.waitpid(pid, 0)[1] == 0, deed
    return said


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("deed", TRICKS.values(), ids=TRICKS)
def test_every_way_to_run_a_text_is_seen_once(deed: str) -> None:
    assert marked_by(deed) == MARK


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("deed", HARMLESS.values(), ids=HARMLESS)
def test_what_runs_no_text_costs_no_process(deed: str) -> None:
    assert marked_by(deed) == b""


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("    return eval(sample['output_text'])", "line 2 (eval)"),
        ("    run = eval\n    return run('1')", "line 2 (eval)"),
        ("    import builtins\n    return builtins.exec('1') or 1", "line 3 (exec)"),
        ("    import sympy as s\n    return s.S('1') == 1", "line 2 (sympy)"),
        ("    return len(compile('1', 'a', 'eval').co_code)", "line 2 (compile)"),
    ],
)
def test_the_line_is_named(level: str, lines: str, says: str) -> None:
    if "sympy" in lines:
        pytest.importorskip("sympy")
    grader = python(f"def grade(sample, item):\n{lines}\n", memory_mb=2048)
    assert grader.warnings == []
    grader.check()
    (warning,) = grader.warnings
    assert says in warning


def test_a_grader_that_runs_no_text_is_warned_of_nothing(level: str) -> None:
    grader = python(
        "import re\nfrom re import compile\nRULE = re.compile('a+') and compile('a+')\n"
        "def grade(sample, item):\n    '''Never exec or eval it.'''\n"
        "    return float(run_code('1').ok and bool(RULE.match(sample['output_text'])))\n",
        wall_seconds=15.0,
    )
    grader.check()
    assert grader.warnings == []
    grade = graded(grader, "a")
    assert (grade.reward, grade.incidents) == (1.0, {})


def test_nobodys_grader_runs_nothing(level: str) -> None:
    token = pools._tenant.set(None)
    try:
        grader = parse_grader({"type": "python", "source": "def grade(s, i): return 1.0"})
    finally:
        pools._tenant.reset(token)
    with pytest.raises(pools.NobodysGrader):
        grader.check()
    assert grader.grade(Sample(""), {}).errors == {"other_error"}
    with pytest.raises(pools.NobodysGrader), pools.on_behalf_of(""):
        pass
