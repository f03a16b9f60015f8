"""Files and folders that are written whole or not at all."""

import errno

import pytest

from model.atomic_write import atomic_folder, write_atomically
from model.errors import SkyfixError


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.bin"
    for data in (b"old", b"new"):
        write_atomically(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left .* is intact: .*a\.bin"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_once_it_is_complete(tmp_path):
    out = tmp_path / "out"
    with atomic_folder(out, SkyfixError) as folder:
        (folder / "a").touch()
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["a"]


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out", SkyfixError) as folder:
        (folder / "a").write_bytes(bytes(1 // 0))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_refused_and_left_unchanged(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    with (
        pytest.raises(SkyfixError, match="exists already"),
        atomic_folder(tmp_path / "out", SkyfixError),
    ):
        pass
    assert (tmp_path / "out" / "kept").exists()
