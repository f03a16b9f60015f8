"""Weights are found by their fingerprint; the error names damaged files."""

from pathlib import Path

import pytest
from checkpoint_samples import tiny_checkpoint

from service.cli.wiring import reopener
from service.runtime.live_localizer import WeightsMissing
from service.settings import Settings


def test_the_error_names_damaged_weights(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    whole = settings.weights.read_bytes()
    settings.weights_folder.mkdir()
    (settings.weights_folder / "next.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        WeightsMissing, match=r"0b0b.*next\.safetensors is not .*: put a whole copy"
    ):
        reopener(settings)("0b" * 32)
    (settings.weights_folder / "next.safetensors").unlink()
    with pytest.raises(WeightsMissing, match="no weights with fingerprint 0b0b"):
        reopener(settings)("0b" * 32)


def test_the_opened_localizer_knows_its_weights_file(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, device="cpu", precision="fp32")
    settings.weights_folder.mkdir()
    path = settings.weights_folder / "next.safetensors"
    made = tiny_checkpoint()
    made.save(path)
    assert reopener(settings)(made.fingerprint).weights == path
