"""Find the variables of a lesson that depend on what was timed or trained on this machine.

Outputs that depend on these *live* variables differ between machines, so they must not be compared
with stored ones.
"""

import ast
from collections.abc import Iterator

#: The calls in lessons that time, train, or use a runtime that selects kernels by the processor.
SOURCES = {"capstone.estimate", "capstone.run", "compare", "compression.score", "cost.roofline"}
SOURCES |= {"distillation.teacher_cost", "distillation.train", "doctor.examine"}
SOURCES |= {
    "fit",
    "mixed.make_variant",
    "mixed.time_of_parts",
    "runtime.accuracy",
}
SOURCES |= {"runtime.operators", "quant.sensitivity", "sparse.chosen", "sparse.converted"}
SOURCES |= {"sparse.measure", "steps.apply_step", "time.perf_counter", "timing.compare"}
SOURCES |= {"timing.self_test", "training.fit", "transformer.one_shot", "widths.measure"}
SOURCES |= {"widths.staircase"}

#: Methods that add to the object that they are called on.
FILLING = {"append", "extend", "update", "setdefault"}


class Live:
    """Reads the cells of a lesson in order, and knows the live names so far."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def reads(self, source: str) -> str | None:
        """The first live name or call in ``source``; what is assigned from it becomes live."""
        return self._first(ast.parse(source).body)

    def _first(self, statements: list[ast.stmt]) -> str | None:
        found = [self._follow(statement) for statement in statements]
        return next(filter(None, found), None)

    def _follow(self, statement: ast.stmt) -> str | None:
        if isinstance(statement, ast.For):
            head = self._note(statement.iter, statement.target)
        elif isinstance(statement, ast.With):
            heads = [self._note(one.context_expr, one.optional_vars) for one in statement.items]
            head = next(filter(None, heads), None)
        else:
            return self._note(statement, statement)
        return self._first(statement.body) or head

    def _note(self, read: ast.AST, bound: ast.AST | None) -> str | None:
        """The first live name in ``read``; if there is one, the names in ``bound`` become live."""
        local = set(_local(read))
        found = (name for name in _read(read) if name not in local)
        live = next((name for name in found if name in SOURCES | self.names), None)
        assigned, filled = ({*names} - local for names in (_assigned(bound), _filled(bound)))
        self.names = self.names | assigned | filled if live else self.names - assigned
        return live


def _walk(node: ast.AST | None) -> Iterator[ast.AST]:
    return iter(()) if node is None else ast.walk(node)


def _names(node: ast.AST) -> list[str]:
    return [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]


def _read(node: ast.AST) -> Iterator[str]:
    """The names that are read and the functions that are called, as written."""
    for one in ast.walk(node):
        if isinstance(one, ast.Call):
            yield ast.unparse(one.func)
        elif isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load):
            yield one.id


def _local(node: ast.AST) -> Iterator[str]:
    """The names that are local to comprehensions and functions in ``node``."""
    for one in ast.walk(node):
        if isinstance(one, ast.comprehension):
            yield from _names(one.target)
        elif isinstance(one, ast.arg):
            yield one.arg
        elif isinstance(one, ast.FunctionDef):
            yield from (name for inner in one.body for name in _assigned(inner))


def _assigned(node: ast.AST | None) -> Iterator[str]:
    """The names that ``node`` assigns or defines."""
    for one in _walk(node):
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
            yield one.id
        elif isinstance(one, ast.FunctionDef):
            yield one.name


def _filled(node: ast.AST | None) -> Iterator[str]:
    """The names of objects that get another entry, or are trained."""
    for one in _walk(node):
        if isinstance(one, ast.Subscript) and isinstance(one.ctx, ast.Store):
            yield from _names(one.value)
        elif isinstance(one, ast.Call):
            if isinstance(one.func, ast.Attribute) and one.func.attr in FILLING:
                yield from _names(one.func.value)
            elif one.args and ast.unparse(one.func).endswith("fit"):
                yield from _names(one.args[0])
