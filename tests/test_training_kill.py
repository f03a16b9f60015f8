"""A training run resumes exactly after a SIGKILL or a full disk."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pair_samples import write_pairs
from safetensors import safe_open
from test_kill import files_no_longer_than
from training_kills import RECIPE, read

from model.checkpoint import Checkpoint
from training.run.loop import train

WORKER = Path(__file__).with_name("training_kills.py")
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), 8)


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    arrays = read(folder)
    train(RECIPE, arrays, out, validation=arrays)
    return out


def written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_after(saves: int, folder: Path, out: Path) -> None:
    """SIGKILL as soon as the state has been written `saves` more times."""
    state = out / "state.safetensors"
    command = [sys.executable, str(WORKER), str(folder), str(out)]
    with subprocess.Popen(command, cwd=WORKER.parent.parent, stderr=subprocess.PIPE) as worker:
        deadline, last = time.monotonic() + PATIENCE_S, written(state)
        while saves and worker.poll() is None and time.monotonic() < deadline:
            if (now := written(state)) != last:
                last, saves = now, saves - 1
        alive = worker.poll() is None
        worker.kill()
        assert alive, worker.stderr.read().decode()
        assert not saves


def test_a_run_killed_twice_equals_an_uninterrupted_run_to_the_bit(folder, uninterrupted, tmp_path):
    for saves in (3, 6):
        kill_after(saves, folder, tmp_path)
    arrays = read(folder)
    train(RECIPE, arrays, tmp_path, validation=arrays)
    assert same_results(tmp_path, uninterrupted)
    state, expected = (tensors(run / "state.safetensors") for run in (tmp_path, uninterrupted))
    assert state.keys() == expected.keys()
    assert all((state[name] == tensor).all() for name, tensor in expected.items())


def same_results(out, other):
    """Weights to the bit; files are not compared, as safetensors orders its header at random."""
    names = ("last.safetensors", "best.safetensors")
    results = [[Checkpoint.load(folder / name) for name in names] for folder in (out, other)]
    first, second = (
        [(checkpoint.fingerprint, checkpoint.provenance) for checkpoint in run] for run in results
    )
    return first == second and logged(out) == logged(other)


def logged(out):
    return (out / "log.jsonl").read_text()


def tensors(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


class StoppedError(Exception):
    pass


@pytest.mark.parametrize(("save_every_s", "share"), [(0.0, 0.9), (60.0, 0.1)])
def test_a_full_disk_leaves_the_old_files_and_the_run_resumes(
    folder, uninterrupted, tmp_path, save_every_s, share
):
    """After a whole epoch, the disk fills while the state, or a checkpoint, is written."""

    def stop(report):
        raise StoppedError

    arrays = read(folder)
    with pytest.raises(StoppedError):
        train(RECIPE, arrays, tmp_path, validation=arrays, on_epoch=stop)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    limit = int(share * (tmp_path / "state.safetensors").stat().st_size)
    with pytest.raises(OSError, match="File too large"), files_no_longer_than(limit):
        train(RECIPE, arrays, tmp_path, validation=arrays, save_every_s=save_every_s)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    train(RECIPE, arrays, tmp_path, validation=arrays)
    assert same_results(tmp_path, uninterrupted)
