"""The documents name existing files, their links resolve, and their commands run."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from service.cli.commands import command_parser as skyfix_parser
from service.cli.commands import main as skyfix
from training.cli.commands import command_parser as skyfix_train_parser
from training.cli.commands import main as skyfix_train

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/**/*.md", "model/weights/*.md")
    for file in ROOT.glob(pattern)
    if file.parent != REFERENCE
)
CONSOLE = re.compile(r"(<!-- not run: [^>]+-->\n)?```console\n(.*?)```", re.DOTALL)
HOSTS = {"127.0.0.1", "localhost", "doi.org", "maps.example", "milvus.internal"}
PLACES = {"model", "training", "service", "tests", "benchmarks", "docs", "deploy", ".ci"}
PROGRAMS = {
    "skyfix": (skyfix, skyfix_parser),
    "skyfix-train": (skyfix_train, skyfix_train_parser),
}
# A town of the documents' commands, small enough for a test.
SMALLER = (
    (r"--size-m \d{4}", "--size-m 170"),
    (r"--size-m \d{3}\b", "--size-m 280"),
    (r"--panoramas \d{4}", "--panoramas 4"),
    (r"--panoramas \d{2}\b", "--panoramas 20"),  # fewer cannot calibrate
    (r"--seed 9001-9003", "--seed 9001-9002"),
)


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


class Block(NamedTuple):
    """A fenced block of commands."""

    text: str
    runs: bool  # False where a comment above says why not

    def commands(self) -> list[str]:
        """The commands without prompts and comments, continued lines joined."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def blocks(file: Path) -> list[Block]:
    return [Block(text, not skipped) for skipped, text in CONSOLE.findall(file.read_text())]


def prose(file: Path) -> str:
    return re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)


@cache
def anchors(file: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_links_resolve(file: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        found = (file.parent / path).resolve() if path else file
        assert found.is_file(), f"{target} of {name_of(file)} is no file"
        if anchor:
            assert anchor in anchors(found), f"{target} of {name_of(file)} is no heading"


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_named_files_exist(file: Path) -> None:
    known = {path.name for place in PLACES for path in (ROOT / place).rglob("*.py")}
    text = prose(file)
    for name in re.findall(r"`([\w./-]+)`", text):
        if name.split("/")[0] in PLACES and "/" in name and "keys.conf" not in name:
            stem = ROOT / name
            assert stem.exists() or stem.with_suffix(".py").is_file(), name
        elif name.endswith(".py"):
            assert name in known, name


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_no_other_host_is_named(file: Path) -> None:
    assert set(re.findall(r"https?://([\w.-]+)", file.read_text())) <= HOSTS


@pytest.mark.parametrize("file", DOCUMENTS, ids=name_of)
def test_commands_parse(file: Path) -> None:
    for block in blocks(file):
        for command in block.commands():
            command = re.sub(r"docker compose run --rm rebuild(-\w+)?", "skyfix", command)
            for part in command.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0] in PROGRAMS and len(words) > 1:
                    parses(words)
                for module in re.findall(r"-m (benchmarks\.\w+)", part):
                    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module


def parses(words: list[str]) -> None:
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            PROGRAMS[words[0]][1]().parse_args(words[1:])
    except SystemExit:
        pytest.fail(f"{shlex.join(words)}: {errors.getvalue()}")


def test_the_modules_and_targets_exist() -> None:
    text = "\n".join(file.read_text() for file in DOCUMENTS)
    for module in sorted(set(re.findall(r"-m (benchmarks\.\w+)", text))):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make (\w+)`", text)) <= targets


def test_documents_named_in_the_code_exist() -> None:
    sources = [ROOT / name for name in ("Dockerfile", "Makefile", "docker-compose.yml")]
    for place in PLACES - {"docs"}:
        sources += [f for f in (ROOT / place).rglob("*") if f.suffix in {".py", ".yml", ".conf"}]
    for source in sources:
        for name in re.findall(r"docs/[\w/-]+\.md", source.read_text()):
            assert (ROOT / name).is_file(), f"{name} of {name_of(source)} is no file"


def test_named_tests_exist() -> None:
    text = (ROOT / "docs" / "field-cases.md").read_text()
    named = re.findall(r"`(\w+\.py)::(\w+)`", text)
    assert len(named) == text.count("::") > 0
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


def test_readme_fits_its_limit() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
    assert len((ROOT / "docs" / "benchmarks.md").read_text().splitlines()) <= 150


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_reference", ROOT / "docs" / "generate_reference.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_agrees_with_the_code(generator: ModuleType) -> None:
    pages = generator.pages()
    assert {file.name for file in REFERENCE.iterdir()} == set(pages)
    for name, text in pages.items():
        assert (REFERENCE / name).read_text() == text, f"{name} is out of date: run `make docs`"


def test_the_site_builds_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    subprocess.run([*command, "--site-dir", tmp_path], cwd=ROOT, check=True)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list((ROOT / "docs").rglob("*.md"))) - 1
    for page in pages:
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*", page.read_text())
        foreign = [tag for tag in loaded if re.search(r"(src|href)=\"(https?:)?//", tag)]
        assert [tag for tag in foreign if 'rel="canonical"' not in tag] == []
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//", sheet.read_text()), sheet


class Terminal:
    """Runs a document's commands one after the other in a folder, with one server at a time."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.server: subprocess.Popen[bytes] | None = None
        self.output = ""

    def run(self, line: str) -> None:
        """Run a line of commands; skyfix runs in this process, which saves its start."""
        for pattern, smaller in SMALLER:
            line = re.sub(pattern, smaller, line)
        for command in line.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}").split("&&"):
            words = shlex.split(command, comments=True)
            if words[:2] == ["make", "demo"]:
                self._demo()
            elif words[0] in PROGRAMS:
                self._skyfix(words)
            else:
                self.output = self._shell(command.replace("curl ", "curl --fail --silent "))

    def stop(self) -> None:
        if self.server:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(20) == 0
            self.server = None

    def _demo(self) -> None:
        """Run the commands of `make demo` on a smaller town."""
        recipe = self._shell(
            "make --no-print-directory --dry-run -o .venv/installed-cpu -o .venv/installed-gpu "
            f"demo PORT={self.port} TOWN_SIZE_M=200"
        )
        for line in recipe.splitlines():
            if line.startswith(".venv/bin/"):
                self._skyfix(shlex.split(line.removeprefix(".venv/bin/")))

    def _skyfix(self, words: list[str]) -> None:
        if words[1] == "serve":
            self._serve(words[1:])
            return
        words = [path for word in words for path in self._expanded(word)]
        output = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(output):
            assert PROGRAMS[words[0]][0](words[1:]) == 0, shlex.join(words)
        self.output = output.getvalue()

    def _expanded(self, word: str) -> list[str]:
        if "*" not in word and "?" not in word:
            return [word]
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(word))

    def _serve(self, words: list[str]) -> None:
        self.stop()
        parses(["skyfix", *words])
        port = words.index("--port") + 1
        words = [*words[:port], str(self.port), *words[port + 1 :]]
        self.server = subprocess.Popen(
            [sys.executable, "-m", "service", *words], cwd=self.folder, stderr=subprocess.DEVNULL
        )
        for _ in range(600):
            assert self.server.poll() is None, shlex.join(words)
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10)
                return
            time.sleep(0.1)
        pytest.fail(f"{shlex.join(words)} is not ready")

    def _shell(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A folder with the files of a clone, and a user's own imagery and panorama."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("Makefile", "model", "pyproject.toml", "constraints.txt"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    town = "skyfix-data/demo-town"
    (folder / "orthophoto.tif").symlink_to(folder / town / "aerial.tif")
    (folder / "panorama.jpg").symlink_to(folder / town / "panoramas" / "00001.jpg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SKYFIX_PRECISION", "fp32")  # saves compiling at every start
        environment.setenv("PATH", f"{folder}/.venv/bin:{os.environ['PATH']}")
        shell = Terminal(folder, port)
        yield shell
        shell.stop()


@pytest.mark.timeout(900)  # half a minute on a quiet machine
def test_the_commands_of_readme_run(terminal: Terminal) -> None:
    shown = json.loads(re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1])  # type: ignore[index]
    for block in blocks(ROOT / "README.md"):
        for command in block.commands() if block.runs else []:
            terminal.run(command)
            if command.startswith("curl -F panorama"):
                answer = json.loads(terminal.output)
                assert set(shown) <= set(answer)
                assert set(shown["matches"][0]) <= set(answer["matches"][0])
        terminal.stop()


@pytest.mark.timeout(900)
def test_the_commands_of_the_tutorial_run(terminal: Terminal) -> None:
    for block in blocks(ROOT / "docs" / "tutorial.md"):
        for command in block.commands() if block.runs else []:
            terminal.run(command)
    terminal.stop()


def test_a_wrong_command_fails(terminal: Terminal) -> None:
    for wrong in (
        "skyfix locat x.jpg",
        "skyfix sources --home nowhere/\0",
        "curl http://127.0.0.1:1/",
    ):
        with pytest.raises((AssertionError, SystemExit, ValueError)):
            terminal.run(wrong)
