"""A file's kind is named as the libraries that write such files would name it."""

from __future__ import annotations

import gzip
import io
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from model.file_kind import HEAD, kind_of, kind_of_file, markup_of

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGES = (
    b"<!DOCTYPE html>\n<html><title>403</title>",
    b"\n<HTML lang='en'><body>",
    b'<?xml version="1.0"?>\n<!-- login --><!DOCTYPE html PUBLIC "x"><html>',
)


def saved(file_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32)).save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("file_format", "words"),
    [
        ("PNG", "a PNG image"),
        ("JPEG", "a JPEG image"),
        ("WEBP", "a WebP image"),
        ("GIF", "a GIF image"),
        ("BMP", "a BMP image"),
        ("TIFF", "a TIFF file"),
        ("JPEG2000", "a JPEG 2000 image"),
        ("AVIF", "an AVIF image"),
        ("PDF", "a PDF document"),
    ],
)
def test_images_as_pillow_writes_them(file_format: str, words: str) -> None:
    assert kind_of(saved(file_format)) == words


def archives(folder: Path) -> dict[str, bytes]:
    """Files as Python's own libraries, scipy and torch write them."""
    made = {name: io.BytesIO() for name in ("zip", "tar", "mat", "pth", "old")}
    with zipfile.ZipFile(made["zip"], "w") as archive:
        archive.writestr("street.jpg", b"x")
    with tarfile.open(fileobj=made["tar"], mode="w") as archive:
        archive.addfile(tarfile.TarInfo("street.jpg"))
    savemat(made["mat"], {"a": np.arange(3)})
    torch.save({"a": torch.zeros(2)}, made["pth"])
    torch.save({"a": torch.zeros(2)}, made["old"], _use_new_zipfile_serialization=False)
    sqlite3.connect(folder / "one.sqlite").execute("create table a (b)").connection.close()
    files = {name: buffer.getvalue() for name, buffer in made.items()}
    files |= {"sqlite": (folder / "one.sqlite").read_bytes(), "gz": gzip.compress(b"x")}
    return files | {"pickle": pickle.dumps({"a": np.arange(3)})}


def test_archives_and_weights(tmp_path: Path) -> None:
    words = {name: kind_of(data) for name, data in archives(tmp_path).items()}
    assert words["zip"] == "a ZIP archive or an office document"
    assert words["tar"] == words["gz"] == "an archive: unpack it"
    assert (words["mat"], words["sqlite"]) == ("a MATLAB 5 file", "an SQLite database")
    assert words["pth"].startswith("a PyTorch file, which may run code")
    assert words["old"].startswith("a Python pickle, ")
    assert words["pickle"].startswith("a Python pickle, ")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty (0 bytes)"),
        (bytes(10_000), "zeros"),
        (POINTER, "a Git LFS pointer, not the file itself: run `git lfs pull`"),
        *((page, "an HTML page") for page in PAGES),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML text"),
        (b'{"error": "no such key"}', "JSON text"),
        (b"\xef\xbb\xbf[ ]", "JSON text"),
        (b"street.jpg\n", "text, 'street.jpg'"),
        (b"BMW_4711.jpg and so on", "text, 'BMW"),
        ("é".encode() * HEAD, "text"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC photograph: save it as JPEG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
        (
            b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n",
            "a MATLAB 7.3",
        ),
        (b"\x07\x00\x12 no kind of file", ""),
        ("street.jpg".encode("utf-16"), ""),
    ],
)
def test_texts_and_kinds_that_no_library_here_writes(
    tmp_path: Path, data: bytes, words: str
) -> None:
    assert kind_of(data).startswith(words)
    assert bool(kind_of(data)) == bool(words)
    (tmp_path / "file").write_bytes(data)
    assert kind_of_file(tmp_path / "file") == kind_of(data)


def test_a_table_is_no_markup_and_an_unreadable_file_no_kind(tmp_path: Path) -> None:
    for table in (b"id,latitude,longitude\n0,1,2\n", b"-1,2\n", b"[a],b\n", b""):
        assert markup_of(table) == ""
    assert kind_of_file(tmp_path) == kind_of_file(tmp_path / "none") == ""


@given(st.binary(min_size=1, max_size=300), st.binary())
def test_the_first_bytes_decide(data: bytes, more: bytes) -> None:
    head = (data * HEAD)[:HEAD]
    assert kind_of(head + more) == kind_of(head)
