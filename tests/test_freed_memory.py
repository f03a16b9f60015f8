import ctypes
import importlib
import subprocess
import sys

import pytest

from model.freed_memory import keep_freed_memory

# Pages that the system clears while a process makes twenty arrays of 32 MiB, one after the other.
PAGES = """
import resource
import numpy as np
from model.freed_memory import keep_freed_memory
{call}
np.ones(1 << 25, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 25, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def cleared_pages(call: str) -> int:
    command = [sys.executable, "-c", PAGES.format(call=call)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_freed_memory_serves_the_next_array_without_being_cleared() -> None:
    asked, kept = cleared_pages(""), cleared_pages("assert keep_freed_memory()")
    assert asked > 1000  # huge pages may need fewer
    assert kept < 100


def test_another_c_library_is_left_unchanged_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with caplog.at_level("INFO"):
        assert not keep_freed_memory()
    assert "no mallopt" in caplog.text


@pytest.mark.parametrize(
    ("program", "command"),
    [
        ("service.cli.commands", ["verify", "--home", "none"]),
        ("training.cli.commands", ["doctor", "town", "none"]),
    ],
)
def test_both_programs_keep_freed_memory(
    program: str, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(f"{program}.keep_freed_memory", lambda: asked.append(True))
    importlib.import_module(program).main(command)
    assert asked
