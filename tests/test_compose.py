"""Weights are found by their fingerprint, and damaged ones are named, not opened."""

from pathlib import Path

import pytest

from service.api.serving import WeightsMissing
from service.compose import reopener
from service.settings import Settings


def test_corrupt_weights_are_named_and_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(home=tmp_path)
    whole = settings.weights.read_bytes()
    settings.weights_folder.mkdir()
    (settings.weights_folder / "next.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsMissing, match="no weights with fingerprint 0b0b"):
        reopener(settings)("0b" * 32)
    assert "next.safetensors" in caplog.text
