"""Which package may import which, and what no module may do while it is imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("model", "training", "service")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(file): ast.parse(file.read_text()) for file in FILES}
PACKAGE_MODULES = {module_of(file) for file in FILES if file.name == "__init__.py"}


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names the tree's imports may load; `from a import b` may load a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: everything outside function bodies."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "__name__ == '__main__'",
        ):
            continue
        yield node
        yield from at_import(node)


def roots(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(TREES[module])}


def modules(package: str) -> list[str]:
    return [name for name in TREES if name == package or name.startswith(f"{package}.")]


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("model", {"training", "service", "faiss", "fastapi", "starlette", "uvicorn", "argparse"}),
        ("training", {"service", "faiss", "fastapi", "starlette"}),
        ("service", {"training"}),
        ("service.api", {"torch", "faiss", "argparse"}),
        ("service.survey", {"torch", "faiss", "fastapi", "starlette", "argparse"}),
        ("service.locate.localizer", {"torch", "faiss", "fastapi", "starlette"}),
    ],
)
def test_a_package_does_not_import(package: str, forbidden: set[str]) -> None:
    assert modules(package)
    assert {m: roots(m) & forbidden for m in modules(package) if roots(m) & forbidden} == {}


# Rooms from the top floor down: a module imports its own room and lower floors only.
SERVICE_FLOORS = (
    {"__main__"},
    {"cli"},
    {"api"},
    {"survey"},
    {"runtime"},
    {"ingest", "build", "basemap", "remote"},
    {"locate"},
    {"imagery"},
    {"index"},
    {"settings"},
)
TRAINING_FLOORS = (
    {"__main__"},
    {"cli"},
    {"studies", "adapt"},
    {"run"},
    {"evaluate"},
    {"data", "town"},
    {"losses", "mining", "recipes", "averaging", "distributed", "progress"},
)


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize(
    ("package", "floors"), [("service", SERVICE_FLOORS), ("training", TRAINING_FLOORS)]
)
def test_imports_point_down(package: str, floors: tuple[set[str], ...]) -> None:
    floor_of = {room: number for number, rooms in enumerate(floors) for room in rooms}
    inside = [module for module in modules(package) if module != package]
    assert {room_of(module) for module in inside} == set(floor_of), "a room is not on the list"
    upward = {
        (module, target)
        for module in inside
        for target in imports(TREES[module])
        if target in inside
        and room_of(target) != room_of(module)
        and floor_of[room_of(target)] <= floor_of[room_of(module)]  # a larger number is lower
    }
    assert upward == set()


def test_the_model_reads_no_environment() -> None:
    for module in modules("model"):
        text = ast.unparse(TREES[module])
        assert "os.environ" not in text, module
        assert "getenv" not in text, module


def test_nothing_reads_environment_or_arguments_at_import() -> None:
    for module, tree in TREES.items():
        for node in at_import(tree):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("os.environ", "sys.argv", "os.getenv"), module


def test_imports_form_no_cycle() -> None:
    """Counts every import outside functions and TYPE_CHECKING blocks."""
    edges = {
        module: {
            name
            for node in at_import(tree)
            for name in imports(node)
            if name in TREES and name != module and name not in PACKAGE_MODULES
        }
        for module, tree in TREES.items()
    }
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for module in leaves:
            del edges[module]
    assert edges == {}, "these modules lie on or behind an import cycle"


def test_names_say_what_is_inside() -> None:
    empty = {"util", "utils", "helper", "helpers", "manager", "base", "common", "misc"}
    assert [file for file in FILES if file.stem in empty] == []


def test_packages_stay_below_the_root_names() -> None:
    """A folder under tests/ named like a package would shadow it."""
    assert [p for p in PACKAGES if (ROOT / "tests" / p).exists()] == []


def test_no_placeholder_is_left_in_the_documents() -> None:
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("model/weights/*.md")]
    left = {file.name: re.findall("@[A-Z]+@", file.read_text()) for file in files}
    assert {name: found for name, found in left.items() if found} == {}
