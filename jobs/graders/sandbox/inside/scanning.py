"""What a source names, read from its syntax tree: modules, and where it may run a text as code.

A hint for its author, and no barrier: that is `watching`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

# Run a text as Python, by whatever name they are called.
_RUNNERS = frozenset({"exec", "eval", "compile"})
_METHODS = """
exec eval query unsafe_load unsafe_load_all full_load full_load_all UnsafeLoader FullLoader
CUnsafeLoader CFullLoader Loader CLoader InteractiveInterpreter InteractiveConsole
"""
# What libraries call theirs; `re.compile` is none of them.
_LIBRARY_RUNNERS = frozenset(_METHODS.split())
_MODULES = """
sympy numexpr pickle cloudpickle dill joblib shelve marshal code codeop runpy timeit pdb bdb doctest
"""
# Modules that evaluate, unpickle or run nearly every text they are given.
_LIBRARIES = frozenset(_MODULES.split())
MAX_FOUND = 5


def modules_named(tree: ast.AST) -> list[str]:
    """Every module that an import statement names, sorted."""
    names: set[str] = set()
    for node in ast.walk(tree):
        names.update(_imported(node))
    return sorted(names)


def text_runs(tree: ast.AST) -> list[tuple[int, str]]:
    """The lines where a text may be run as code, and by what; the first few, in order."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.expr, ast.stmt))]
    # `from re import compile`: another function of that name.
    others = {
        alias.asname or alias.name
        for node in nodes
        if isinstance(node, ast.ImportFrom) and node.module != "builtins"
        for alias in node.names
    }
    found = {
        (node.lineno, name)
        for node in nodes
        for name in _runners(node)
        if not (isinstance(node, ast.Name) and name in others)
    }
    return sorted(found)[:MAX_FOUND]


def _runners(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and node.id in _RUNNERS:
        yield node.id
    elif isinstance(node, ast.Attribute) and node.attr in _LIBRARY_RUNNERS:
        yield node.attr
    elif isinstance(node, ast.ImportFrom) and node.module == "builtins":
        yield from (alias.name for alias in node.names if alias.name in _RUNNERS)
    else:
        yield from sorted({name.split(".")[0] for name in _imported(node)} & _LIBRARIES)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
