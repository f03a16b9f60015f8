"""FAISS's own OpenBLAS does not take its oldest kernels on a new processor."""

import os
import subprocess
import sys

import pytest

from service.index.faiss_library import CPUINFO, VARIABLE, kernels

ARCHITECTURES = """
import threadpoolctl
from service.index.flat import faiss
for library in threadpoolctl.threadpool_info():
    if "faiss" in library["filepath"] and library["internal_api"] == "openblas":
        print(library["architecture"])
"""


def loaded(**environment: str) -> str:
    """The kernels of FAISS's OpenBLAS in a new process."""
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-c", ARCHITECTURES]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=kept | environment
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ("flags : sse4_2 avx2 avx512f avx512vl", "SkylakeX"),
        ("flags : sse4_2 avx2", "Haswell"),
        ("flags : sse4_2", None),
        ("Features : asimd", None),
    ],
)
def test_the_kernels_follow_the_flags(flags: str, name: str | None) -> None:
    assert kernels(flags) == name


@pytest.mark.skipif(
    not CPUINFO.exists() or kernels(CPUINFO.read_text()) is None, reason="no AVX2 here"
)
def test_faiss_takes_the_best_kernels_unless_the_environment_names_others() -> None:
    assert loaded() in (kernels(CPUINFO.read_text()), "")  # "": another FAISS, without OpenBLAS
    assert loaded(**{VARIABLE: "Nehalem"}) in ("Nehalem", "")
