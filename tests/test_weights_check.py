"""A weights file that no longer holds the live weights is noticed, once for each change."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pair_samples import tiny

from model.checkpoint import Checkpoint
from service.runtime.weights_check import WeightsFile


def write(path: Path, seed: int) -> str:
    torch.manual_seed(seed)
    config = tiny().encoder
    made = Checkpoint(config, config.build().state_dict())
    made.save(path)
    return made.fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "live.safetensors"


@pytest.fixture
def file(path: Path) -> WeightsFile:
    watched = WeightsFile(path, write(path, seed=0), settled_s=0.0)
    assert look_twice(watched) is None
    return watched


def look_twice(file: WeightsFile) -> str | None:
    """The second look must not repeat what the first has done."""
    file.trouble()
    return file.trouble()


class Counting(WeightsFile):
    """Counts how often it reads, and fails while it has faults left."""

    reads = 0
    faults: tuple[Exception, ...] = ()

    def _damage(self) -> str | None:
        self.reads += 1
        fault, self.faults = self.faults[:1], self.faults[1:]
        return repr(fault) if fault else super()._damage()


def flip(path: Path) -> None:
    """Change a bit in place, and date the file back as copying tools do."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: os.truncate(path, 1000), "is not a readable safetensors file"),
        (Path.unlink, "there is no checkpoint at"),
        (flip, "holds weights"),
        (lambda path: write(path, seed=1), "holds weights"),
    ],
)
def test_a_damaged_file_is_logged_once_until_it_is_whole(
    harm: Callable[[Path], object],
    why: str,
    file: WeightsFile,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    whole = path.read_bytes()
    harm(path)
    for _ in range(3):
        look_twice(file)
    assert "live.safetensors no longer holds" in (file.trouble() or "")
    assert str(path.parent) not in (file.trouble() or "")
    (record,) = caplog.records
    assert (record.levelname, why in record.message) == ("ERROR", True)
    path.write_bytes(whole)
    assert look_twice(file) is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_file_that_is_being_copied_is_not_reported_as_damaged(path: Path) -> None:
    file = WeightsFile(path, write(path, seed=0), settled_s=0.2)
    whole = path.read_bytes()
    for share in (1, 2, 3):
        path.write_bytes(whole[: share * len(whole) // 3])
        assert look_twice(file) is None
    time.sleep(0.3)
    assert file.trouble() is None
    os.truncate(path, 1000)
    assert look_twice(file) is None
    time.sleep(0.3)
    assert "no longer holds" in (file.trouble() or "")


def test_a_change_is_read_once(path: Path) -> None:
    file = Counting(path, write(path, seed=0), settled_s=0.0)
    for _ in range(3):
        look_twice(file)
    assert file.reads == 1
    os.truncate(path, 1000)
    for _ in range(3):
        look_twice(file)
    assert file.reads == 2


def test_a_failed_reading_is_tried_again(path: Path) -> None:
    """A disk that did not answer leaves no trace in the file's stamp."""
    file = Counting(path, write(path, seed=0), settled_s=0.0, retry_every_s=0.0)
    file.faults = (OSError(5),)
    assert "no longer holds" in (file.trouble() or "")
    assert file.trouble() is None
