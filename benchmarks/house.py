"""The size and structure of a checkout: `python -m benchmarks.house [CHECKOUT …]`.

Prints one column for each checkout: lines, files, functions, arrows, words of Markdown. An arrow
means that one file or folder of a package imports another. Reads files as text, runs nothing.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("model", "training", "service")
GENERATED = "reference"  # folder of pages that are generated from the code


def measure(root: Path) -> dict[str, str]:
    """Every figure of one checkout, by its name."""
    figures: dict[str, str] = {}
    for folder in (*PACKAGES, "tests", "benchmarks"):
        texts = [file.read_text() for file in python_files(root, folder)]
        lines = sum(text.count("\n") for text in texts)
        figures[f"{folder}: lines / files"] = f"{lines} / {len(texts)}"
    trees = {
        module_name(root, file): ast.parse(file.read_text())
        for package in PACKAGES
        for file in python_files(root, package)
    }
    total = sum(len((root / name).read_text().splitlines()) for name in _paths(root))
    figures["model, training, service: lines"] = str(total)
    lengths = sorted(length for tree in trees.values() for length in function_lengths(tree))
    ninetieth = lengths[int(0.9 * len(lengths))]
    figures["functions"] = str(len(lengths))
    figures["function lines: median / p90 / max"] = (
        f"{statistics.median(lengths):g} / {ninetieth} / {lengths[-1]}"
    )
    for package in PACKAGES:
        figures[f"{package}: arrows between entries"] = str(len(arrows(trees, package)))
    pages = [page for page in _markdown(root) if GENERATED not in page.parts]
    words = sum(len(page.read_text().split()) for page in pages)
    figures["Markdown by hand: words / pages"] = f"{words} / {len(pages)}"
    return figures


def _paths(root: Path) -> list[Path]:
    return [file for package in PACKAGES for file in python_files(root, package)]


def python_files(root: Path, folder: str) -> list[Path]:
    """The Python files below a folder of the checkout."""
    return sorted((root / folder).rglob("*.py"))


def module_name(root: Path, file: Path) -> str:
    """`service/api/app.py` to `service.api.app`; a package's `__init__` to the package."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def function_lengths(tree: ast.AST) -> Iterator[int]:
    """Lines of every function and method, decorators left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def arrows(trees: dict[str, ast.Module], package: str) -> set[tuple[str, str]]:
    """(importing entry, imported entry): an entry is a file or folder directly in the package."""
    found = set()
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = {name if name in trees else node.module for name in names}
                for target in targets & trees.keys():
                    ends = module.split("."), target.split(".")
                    inside = all(len(end) > 1 and end[0] == package for end in ends)
                    if inside and ends[0][1] != ends[1][1]:
                        found.add((ends[0][1], ends[1][1]))
    return found


def _markdown(root: Path) -> list[Path]:
    """Pages outside hidden folders."""
    pages = [page.relative_to(root) for page in root.rglob("*.md")]
    return [root / page for page in pages if not any(part.startswith(".") for part in page.parts)]


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure the size and structure of checkouts.")
    parser.add_argument("checkouts", nargs="*", type=Path, default=[Path()])
    roots = parser.parse_args(arguments).checkouts
    columns = [measure(root) for root in roots]
    for name in columns[0]:
        print(f"{name:38}", *(f"{column.get(name, '-'):>18}" for column in columns))


if __name__ == "__main__":
    main(sys.argv[1:])
