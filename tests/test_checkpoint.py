import errno
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from model.checkpoint import Checkpoint, CheckpointError, EncoderConfig, write_safetensors
from model.network import NetworkConfig
from model.panorama import Band
from model.preprocessing import Preprocessing

CONFIG = EncoderConfig(
    NetworkConfig(neck=8, group_channels=4, dimension=16),
    Preprocessing(input_size=32, strip_size=(24, 128)),
    48.0,
)


@pytest.fixture(scope="module")
def checkpoint():
    torch.manual_seed(0)
    return Checkpoint(CONFIG, CONFIG.build().state_dict(), {"recipe": "none", "seed": 3})


@pytest.fixture
def saved(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "weights" / "a.safetensors")
    return tmp_path / "weights" / "a.safetensors"


def test_round_trip(checkpoint, saved):
    loaded = Checkpoint.load(saved)
    assert loaded.config == CONFIG
    assert loaded.provenance == checkpoint.provenance
    assert loaded.fingerprint == checkpoint.fingerprint
    assert loaded.tensors.keys() == checkpoint.tensors.keys()
    assert all(
        torch.equal(loaded.tensors[name], tensor) for name, tensor in checkpoint.tensors.items()
    )
    assert [file.name for file in saved.parent.iterdir()] == ["a.safetensors"]


def test_turns_change_the_fingerprint_but_one_turn_does_not(checkpoint, tmp_path):
    turned = replace(checkpoint, config=replace(CONFIG, turns=4))
    turned.save(tmp_path / "turned.safetensors")
    assert Checkpoint.load(tmp_path / "turned.safetensors").config == turned.config
    assert turned.fingerprint != checkpoint.fingerprint
    assert "turns" not in CONFIG.to_json()
    with pytest.raises(ValueError, match="turns is 3"):
        replace(CONFIG, turns=3)


def test_the_loaded_network_is_the_saved_network(checkpoint, saved):
    images = torch.randn(2, 3, 32, 32)
    twin = CONFIG.build().eval()
    twin.load_state_dict(dict(checkpoint.tensors))
    network = Checkpoint.load(saved).network()
    assert not network.training
    assert torch.equal(network.street(images), twin.street(images))


def test_half_precision_weights_are_read_back_as_floats(checkpoint, tmp_path):
    halves = {name: tensor.half() for name, tensor in checkpoint.tensors.items()}
    Checkpoint(CONFIG, halves).save(tmp_path / "half.safetensors")
    loaded = Checkpoint.load(tmp_path / "half.safetensors")
    assert loaded.tensors["street.head.bias"].dtype == torch.float16
    assert all(parameter.dtype == torch.float32 for parameter in loaded.network().parameters())
    assert loaded.fingerprint != checkpoint.fingerprint


TRUNCATED_WHILE_LOADED = """
import os, sys
from model.checkpoint import Checkpoint

loaded = Checkpoint.load(sys.argv[1])
before = loaded.fingerprint
os.truncate(sys.argv[1], 0)
assert loaded.fingerprint == before
"""


def test_weights_outlive_their_file(saved):
    """In a separate process: reading a lost page of a mapped file kills with SIGBUS."""
    command = [sys.executable, "-c", TRUNCATED_WHILE_LOADED, str(saved)]
    assert subprocess.run(command, timeout=120).returncode == 0


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, aerial_footprint_m=50.0),
        replace(CONFIG, network=replace(CONFIG.network, attention=False)),
        *(
            replace(CONFIG, preprocessing=replace(CONFIG.preprocessing, **change))
            for change in (
                {"band": None},
                {"band": Band(15.0, -44.0)},
                {"projection": "ground"},
                {"strip_size": (24, 120)},
                {"mean": (0.5, 0.5, 0.5)},
                {"ground_camera_height_m": 2.5},
            )
        ),
    ],
)
def test_configuration_survives_json_and_changes_the_fingerprint(checkpoint, config):
    assert EncoderConfig.from_dict(json.loads(config.to_json())) == config
    assert replace(checkpoint, config=config).fingerprint != checkpoint.fingerprint


def test_weights_change_the_fingerprint_and_provenance_does_not(checkpoint):
    assert replace(checkpoint, provenance={}).fingerprint == checkpoint.fingerprint
    for name in ("street.head.bias", "aerial.attention.weigh.weight", "aerial.trunk.stem.0.weight"):
        nudged = dict(checkpoint.tensors)
        nudged[name] = nudged[name].clone()
        nudged[name].view(-1)[0] += 1e-6
        assert replace(checkpoint, tensors=nudged).fingerprint != checkpoint.fingerprint


def other_safetensors(path, saved):
    save_file({"a": torch.zeros(2)}, path)


def a_pickle(path, saved):
    path.write_bytes(pickle.dumps({"state_dict": [1, 2, 3] * 100}))


def truncated(path, saved):
    path.write_bytes(saved.read_bytes()[:-100])


def empty(path, saved):
    path.touch()


def broken_configuration(path, saved):
    header = {"format": "skyfix-checkpoint-1", "config": '{"network": {}}'}
    save_file({"a": torch.zeros(2)}, path, header)


def unknown_projection(path, saved):
    values = json.loads(CONFIG.to_json())
    values["preprocessing"]["projection"] = "fisheye"
    header = {"format": "skyfix-checkpoint-1", "config": json.dumps(values)}
    save_file({"a": torch.zeros(2)}, path, header)


def unknown_dtype(path, saved):
    header = json.dumps({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(3))


@pytest.mark.parametrize(
    "make",
    [
        other_safetensors,
        a_pickle,
        truncated,
        empty,
        broken_configuration,
        unknown_projection,
        unknown_dtype,
    ],
)
def test_an_unusable_file_is_refused_with_its_path(make, saved, tmp_path):
    path = tmp_path / "other.safetensors"
    make(path, saved)
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        Checkpoint.load(path)


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 15330008\n"
    )
    with pytest.raises(CheckpointError, match="run `git lfs pull`") as caught:
        Checkpoint.load(path)
    assert "git lfs pull" in caught.value.public
    assert str(tmp_path) not in caught.value.public


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            Checkpoint.load(path)


@pytest.mark.parametrize(
    ("config", "tensors"),
    [
        (CONFIG, {}),
        (replace(CONFIG, network=replace(CONFIG.network, dimension=17)), None),
        (replace(CONFIG, network=replace(CONFIG.network, trunk="vgg99")), None),
        (replace(CONFIG, network=replace(CONFIG.network, neck=-1)), None),
    ],
    ids=["nothing", "dimension", "trunk", "neck"],
)
def test_weights_that_do_not_fit_are_refused(checkpoint, config, tensors):
    tensors = checkpoint.tensors if tensors is None else tensors
    with pytest.raises(CheckpointError, match="do not fit"):
        Checkpoint(config, tensors).network()


def test_a_failing_write_leaves_the_old_file(checkpoint, saved):
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        write_safetensors(saved, checkpoint.tensors, {"format": 3})  # headers hold text only
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == ["a.safetensors"]


def test_a_full_disk_is_reported_with_the_file_s_path(checkpoint, saved, monkeypatch):
    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OSError, match=r"No space left .*; the file that was there is intact: .*a\.s"
    ):
        checkpoint.save(saved)
    with pytest.raises(OSError, match=r"No space left on device: .*new\.safetensors"):
        checkpoint.save(saved.with_name("new.safetensors"))
    assert Checkpoint.load(saved).fingerprint == checkpoint.fingerprint
    assert [file.name for file in saved.parent.iterdir()] == ["a.safetensors"]
