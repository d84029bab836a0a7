"""The examples that lessons show in comments, for learners to try, use what the course has."""

import ast
import builtins
import inspect
import re
import symtable

import jupytext
import pytest

from course_lib.teaching import lessons


def examples():
    """Lesson, example and code before it, for every code cell of comments; hints left out."""
    for script in lessons.scripts():
        before = ""
        for cell in jupytext.read(script, fmt="py:percent").cells:
            if cell.cell_type == "code" and re.fullmatch(r"(#(?! hint).*\n*)+", cell.source):
                yield script.stem[:2], re.sub(r"^# ?", "", cell.source, flags=re.M), before
            before += cell.source + "\n" if cell.cell_type == "code" else ""


def value(node, objects):
    """The object that a dotted name stands for; None where only running it would tell."""
    if isinstance(node, ast.Attribute):
        owner = value(node.value, objects)
        return None if owner is None else getattr(owner, node.attr)
    return objects.get(node.id) if isinstance(node, ast.Name) else None


def bind(call, function, dicts):
    """Raise TypeError if a function of the course does not accept the arguments of the call."""
    if (getattr(function, "__module__", None) or "").startswith("course_lib"):
        splats = [dicts.get(ast.unparse(one.value)) for one in call.keywords if one.arg is None]
        named = [one.arg for one in call.keywords if one.arg]
        named += [key.value for splat in splats if splat for key in splat.keys]
        check = "bind_partial" if None in splats else "bind"
        getattr(inspect.signature(function), check)(*call.args, **dict.fromkeys(named))


def faults(example, before=""):
    """What the example uses and nothing defines: names, attributes and arguments, as text."""
    scopes, objects, dicts = [symtable.symtable(before + example, "example", "exec")], {}, {}
    top = {one.get_name(): one for one in scopes[0].get_symbols()}
    for scope in scopes:
        scopes += scope.get_children()
    symbols = [one for scope in scopes for one in scope.get_symbols() if one.is_referenced()]
    used = {one.get_name() for one in symbols if one.is_global()}
    found = [*used - {name for name in top if top[name].is_local()} - {*dir(builtins)}]
    try:
        for node in ast.walk(ast.parse(before + example)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(ast.unparse(node), objects)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                dicts[ast.unparse(node.targets[0])] = node.value
        objects = {k: v for k, v in objects.items() if k in top and not top[k].is_assigned()}
        for node in ast.walk(ast.parse(example)):
            value(node, objects)
            if isinstance(node, ast.Call):
                bind(node, value(node.func, objects), dicts)
    except (ImportError, AttributeError, TypeError) as error:
        found.append(str(error))
    return found


def test_the_examples_of_the_lessons_use_what_exists():
    found = [*examples()]
    assert {lesson for lesson, _, _ in found} >= {"07", "10", "12"}
    assert [fault for _, example, before in found for fault in faults(example, before)] == []


@pytest.mark.parametrize("word", ["training", "fit", "model", "SGD", "lr", "seed", "epochs"])
def test_a_misspelt_word_is_found(word):
    example = "from course_lib.networks import training\nhow = {'seed': 0}\n"
    example += "training.fit(model, None, optimizer=training.SGD(lr=0.1), epochs=1, **how)"
    assert faults(example, "model = None\n") == []
    assert faults(re.sub(rf"\b{word}\b", "wrong", example, count=1), "model = None\n")
