"""Who imports whom: rooms, arrows, circles and lines of a package, to compare two states of it.

    scripts/import_graph.py prefdata
    scripts/import_graph.py ../before/prefdata

A room is a package or a module of the first level; an arrow goes from a room to one that it
imports, wherever the import stands in a file. Of a circle each room leads to every other. An arrow
goes up where `tests/test_floors.py` beside the package sets the room that is imported higher than
the one that imports it.
"""

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path


def room_of(file: Path, package: Path) -> str:
    """The module or package of the first level that a file belongs to."""
    return file.relative_to(package).parts[0].removesuffix(".py")


def files_of(package: Path) -> list[Path]:
    """All modules, without the package's own `__init__`, which only hands on names."""
    return sorted(file for file in package.rglob("*.py") if file != package / "__init__.py")


def imports_of(file: Path, package: str) -> Iterator[str]:
    """Full names of what a file imports, at any place in it.

    Raises:
        ValueError: an import is relative.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module is None:
                raise ValueError(f"{file}:{node.lineno}: a relative import")
            is_whole = node.module == package
            yield from (f"{package}.{a.name}" for a in node.names) if is_whole else (node.module,)


def arrows_of(package: Path) -> dict[str, set[str]]:
    """By room, the other rooms that it imports."""
    files = files_of(package)
    arrows: dict[str, set[str]] = {room_of(file, package): set() for file in files}
    for file in files:
        here = room_of(file, package)
        for name in imports_of(file, package.name):
            if name.startswith(f"{package.name}."):
                arrows[here].add(name.split(".")[1])
    return {here: {room for room in to if room in arrows} - {here} for here, to in arrows.items()}


def circles_of(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Rooms of which each leads to every other, largest circle first."""
    reach = {room: _reachable(room, arrows) for room in arrows}
    found = {frozenset(b for b in reach[a] if a in reach[b]) for a in arrows if a in reach[a]}
    return sorted(map(set, found), key=len, reverse=True)


def _reachable(room: str, arrows: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    ahead = [room]
    while ahead:
        new = arrows[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def levels_of(package: Path) -> dict[str, int]:
    """How high each room stands, from `ORDER` or `FLOORS` of the test; empty without one."""
    test = package.parent / "tests" / "test_floors.py"
    for node in ast.parse(test.read_text()).body if test.exists() else ():
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if node.targets[0].id == "ORDER":
                names = ast.literal_eval(node.value)
                return {name: len(names) - place for place, name in enumerate(names)}
            if node.targets[0].id == "FLOORS":
                return dict(ast.literal_eval(node.value))
    return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path, nargs="?", default=Path("prefdata"))
    package = parser.parse_args().package.resolve()
    arrows, levels = arrows_of(package), levels_of(package)
    pairs = [(a, b) for a, to in arrows.items() for b in to]
    up = [(a, b) for a, b in pairs if levels and levels[b] > levels[a]]
    circles = circles_of(arrows)
    print(f"rooms         {len(arrows)}")
    print(f"root modules  {len([*package.glob('*.py')])}")
    print(f"arrows        {len(pairs)}")
    print(f"arrows up     {len(up) if levels else '? (no tests/test_floors.py)'}", *up)
    print(f"circles       {len(circles)}", *(" ".join(sorted(circle)) for circle in circles))
    lines: dict[str, list[int]] = defaultdict(list)
    for file in [package / "__init__.py", *files_of(package)]:
        lines[room_of(file, package)].append(len(file.read_text().splitlines()))
    print(f"lines         {sum(map(sum, lines.values()))}")
    for room in sorted(lines, key=lambda room: (-levels.get(room, 99), room)):
        print(f"  {room:14}{sum(lines[room]):6} in {len(lines[room])}")


if __name__ == "__main__":
    main()
