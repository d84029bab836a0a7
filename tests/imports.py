"""Which module of ``course_lib`` imports which, read from the source.

``python tests/imports.py`` prints the numbers of floors and arrows, and whether imports are
circular, and redraws the diagram of ARCHITECTURE.md.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

#: Each room (a package), and the rooms it may import. All may import the modules outside any room.
ROOMS = {
    "networks": (),
    "pruning": ("networks",),
    "measuring": ("networks",),
    "deployment": ("networks", "pruning", "measuring"),
    "experiments": ("networks", "pruning", "measuring", "deployment"),
    "decision": ("networks", "measuring", "experiments"),
    "teaching": ("networks", "pruning", "measuring", "deployment", "experiments", "decision"),
    "classroom": ("networks", "measuring", "teaching"),
}


@cache
def modules(root: Path = PROJECT) -> dict[str, Path]:
    """The file of each module, by its dotted name without ``course_lib``."""
    found = {}
    for file in sorted((root / "course_lib").rglob("*.py")):
        parts = file.relative_to(root / "course_lib").with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = file
    return found


@cache
def imported(name: str, root: Path = PROJECT) -> frozenset[str]:
    """The modules that the module ``name`` imports, at the top or inside a function."""
    known, found = modules(root), set()
    for node in ast.walk(ast.parse(known[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_lib"):
            source = node.module.removeprefix("course_lib").lstrip(".")
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                found.add(inner if inner in known else source)
        elif isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {one.removeprefix("course_lib.") for one in names if one.startswith("course")}
    return frozenset(found - {"", name})


def arrows(root: Path = PROJECT) -> dict[str, frozenset[str]]:
    """The imports of each module."""
    return {name: imported(name, root) for name in modules(root) if name}


def room_of(module: str) -> str:
    """The room of ``module``, or the module itself if it is in none."""
    return module.partition(".")[0]


def between(found: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """The imports of each room from other rooms and from modules outside any, given ``found``."""
    rooms: dict[str, set[str]] = {}
    for name, others in found.items():
        inside = rooms.setdefault(room_of(name), set())
        inside |= {room_of(other) for other in others} - {room_of(name)}
    return rooms


def floors(found: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The length of the longest chain of imports down from each module, itself included.

    Raises:
        CycleError: modules import each other in a circle.
    """
    floor: dict[str, int] = {}
    for name in TopologicalSorter(found).static_order():
        floor[name] = 1 + max((floor[other] for other in found.get(name, ())), default=0)
    return floor


def needed(found: Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """``found`` without the arrows that follow from others."""

    def below(name: str) -> set[str]:
        return {other for one in found.get(name, ()) for other in {one, *below(one)}}

    return {
        name: {one for one in others if not any(one in below(other) for other in others)}
        for name, others in found.items()
    }


def picture(root: Path = PROJECT) -> str:
    """The rooms as a Mermaid diagram: an arrow points to what is imported."""
    rooms = {name: others for name, others in between(arrows(root)).items() if name in ROOMS}
    lines = ["```mermaid", "flowchart TD"]
    for name in reversed(ROOMS):
        inside = (one.partition(".")[2] for one in modules(root) if one.startswith(f"{name}."))
        words = sorted({one.partition(".")[0] for one in inside} - {"__main__"})
        rows = [" ".join(words[start : start + 5]) for start in range(0, len(words), 5)]
        lines.append(f'  {name}["<b>{name}</b><br>{"<br>".join(rows)}"]')
    for name, others in needed({name: rooms[name] & ROOMS.keys() for name in rooms}).items():
        lines += [f"  {name} --> {other}" for other in sorted(others)]
    return "\n".join([*lines, "```"])


def drawn(text: str, root: Path = PROJECT) -> str:
    """``text`` with its Mermaid diagram redrawn."""
    return re.sub(r"```mermaid\n.*?```", lambda _: picture(root), text, count=1, flags=re.DOTALL)


def main() -> None:
    """Command line."""
    found = arrows()
    page = PROJECT / "ARCHITECTURE.md"
    page.write_text(drawn(page.read_text(encoding="utf-8")), encoding="utf-8")
    for what, each in (("modules", found), ("rooms and modules outside them", between(found))):
        count = sum(map(len, each.values()))
        try:
            story = f"{max(floors(each).values())} floors, no circle"
        except CycleError as error:
            story = f"a circle: {' -> '.join(error.args[1])}"
        print(f"{len(each)} {what}: {count} arrows, {story}")


if __name__ == "__main__":
    main()
