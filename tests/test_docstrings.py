"""Every public name of the library says what a caller has to know: shapes and errors."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from course_lib import PROJECT

LIBRARY = PROJECT / "course_lib"
MODULES = [
    name
    for name in (path.relative_to(LIBRARY).as_posix() for path in sorted(LIBRARY.rglob("*.py")))
    if "exercises/" not in name  # answers to exercises, which the lessons explain
]

#: "(N, 10)", "(rows, columns)", "(..., in)", "(N,)", or the word.
SHAPE = re.compile(r"\bshapes?\b|\((\w+|\.\.\.)(, ?[\w*.+ /-]+)+\)|\(\w+,\)")


class Public(NamedTuple):
    """A public class or function, with the names of the classes around it."""

    name: str
    node: ast.ClassDef | ast.FunctionDef

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""


def public(text: str) -> list[Public]:
    return [*_public(ast.parse(text), "")]


def _public(node: ast.AST, owner: str) -> Iterator[Public]:
    for one in node.body:
        if isinstance(one, ast.ClassDef | ast.FunctionDef) and not one.name.startswith("_"):
            yield Public(owner + one.name, one)
            if isinstance(one, ast.ClassDef):
                yield from _public(one, f"{one.name}.")


def functions(text: str) -> list[Public]:
    return [one for one in public(text) if isinstance(one.node, ast.FunctionDef)]


def raised(function: ast.FunctionDef) -> set[str]:
    """The errors that a function raises itself and does not catch."""
    found, caught = set(), set()
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func).rpartition(".")[2])
        if isinstance(node, ast.ExceptHandler) and node.type:
            caught |= set(re.findall(r"\w+", ast.unparse(node.type)))
    return {name for name in found - caught if name[0].isupper()}


def takes_or_returns_tensors(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    annotations = [argument.annotation for argument in arguments] + [function.returns]
    return any(each and ast.unparse(each).startswith("torch.Tensor") for each in annotations)


def without_docstring(text: str) -> list[str]:
    return [one.name for one in public(text) if not one.docstring]


def without_errors(text: str) -> list[str]:
    return [
        f"{one.name}: {error}"
        for one in functions(text)
        for error in raised(one.node)
        if error not in one.docstring
    ]


def without_shapes(text: str) -> list[str]:
    return [
        one.name
        for one in functions(text)
        if takes_or_returns_tensors(one.node) and not SHAPE.search(one.docstring)
    ]


@pytest.mark.parametrize("check", [without_docstring, without_errors, without_shapes])
@pytest.mark.parametrize("module", MODULES)
def test_a_public_name_says_what_a_caller_has_to_know(module, check):
    assert check((LIBRARY / module).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "check", "missing"),
    [
        ("class A:\n  def b(self): pass", without_docstring, ["A", "A.b"]),
        ("def a():\n  raise ValueError('no')", without_errors, ["a: ValueError"]),
        ("def a():\n  'Raises ValueError.'\n  raise ValueError('no')", without_errors, []),
        ("def a(x: torch.Tensor):\n  'The norm.'", without_shapes, ["a"]),
        ("def a(x: torch.Tensor):\n  'The norm of (N, C).'", without_shapes, []),
        ("def _a(x: torch.Tensor): pass", without_docstring, []),
    ],
)
def test_what_is_missing_is_found(text, check, missing):
    assert check(text) == missing
