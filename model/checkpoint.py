"""Checkpoints: safetensors whose header holds the whole configuration. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from model.atomic_write import write_atomically
from model.errors import SkyfixError
from model.file_kind import kind_of_file
from model.network import NetworkConfig, SiameseNetwork
from model.panorama import Band
from model.preprocessing import Preprocessing

FORMAT = "skyfix-checkpoint-1"
TURNS = (1, 2, 4)  # quarter turns alone move pixels without resampling


class CheckpointError(SkyfixError):
    """The file is not a usable checkpoint."""


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    """Write tensors and header as one file, in a folder that is made; see `write_atomically`."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(plain, metadata=header))


def read_safetensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file.

    The file is copied, not mapped as by `safe_open`: once a mapped file is overwritten in place or
    truncated, its pages kill the process (SIGBUS). This needs twice the file's size in memory.

    Raises:
        SafetensorError, OSError: the file is not a whole safetensors file.
    """
    data = path.read_bytes()
    try:
        tensors = load(data)
    except KeyError as error:
        raise SafetensorError(f"dtype {error} is unknown to torch") from error
    # `load` has proved the header whole: its length in 8 bytes, then JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {}), tensors


@dataclass(frozen=True)
class EncoderConfig:
    """The settings of an encoder: all that turns images into descriptors, except the weights.

    Attributes:
        aerial_footprint_m: ground width in metres that the aerial branch was trained on.
        turns: how many turned copies of a view are encoded: 1, 2 or 4, evenly over the turn. A
            descriptor joins their descriptors, whose errors differ. For networks trained on
            both views turned together. Encoding and index cost `turns` times as much, except for
            rolls: a multiple of `turns` rolls shares its copies.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    aerial_footprint_m: float = 64.0
    turns: int = 1

    def __post_init__(self) -> None:
        if type(self.turns) is not int or self.turns not in TURNS:
            raise ValueError(f"turns is {self.turns}: it must be one of {TURNS}")
        if self.network.half and (self.turns == 1 or self.preprocessing.projection == "none"):
            raise ValueError(
                f"turns is {self.turns} and projection {self.preprocessing.projection!r}: half "
                "views need 2 or 4 turns of a view from above"
            )

    @property
    def dimension(self) -> int:
        """Length of a descriptor, D."""
        return self.turns * self.network.dimension

    def build(self, *, pretrained: bool = False) -> SiameseNetwork:
        """The network with fresh weights."""
        return SiameseNetwork(self.network, self.preprocessing.input_size, pretrained=pretrained)

    def as_dict(self) -> dict[str, Any]:
        """Plain values. Newer fields are left out at their default: older fingerprints stay."""
        values = asdict(self)
        if self.turns == 1:
            del values["turns"]
        if not self.network.half:
            del values["network"]["half"]
        return values

    def to_json(self) -> str:
        """Canonical JSON: the same configuration gives the same text."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderConfig:
        """The inverse of `as_dict`, from JSON's lists.

        Raises:
            TypeError, KeyError: a field is missing or unknown.
        """
        preprocessing = dict(values["preprocessing"])
        for name in ("strip_size", "mean", "std"):
            preprocessing[name] = tuple(preprocessing[name])
        band = preprocessing["band"]
        preprocessing["band"] = None if band is None else Band(*band)
        return cls(
            NetworkConfig(**values["network"]),
            Preprocessing(**preprocessing),
            float(values["aerial_footprint_m"]),
            values.get("turns", 1),
        )


@dataclass(frozen=True)
class Checkpoint:
    """A configuration, the weights by name, and their provenance (recipe, data, results)."""

    config: EncoderConfig
    tensors: Mapping[str, Tensor]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """sha256 over configuration and weights, hexadecimal; provenance does not count."""
        digest = hashlib.sha256(self.config.to_json().encode())
        for name in sorted(self.tensors):
            tensor = self.tensors[name].detach().cpu().contiguous()
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def provenance_of_new_weights(self) -> dict[str, Any]:
        """The provenance for weights made from these: no calibration applies to other distances."""
        return {name: value for name, value in self.provenance.items() if name != "calibration"}

    def network(self) -> SiameseNetwork:
        """The network with these weights in float32, ready to infer.

        Raises:
            CheckpointError: the weights do not fit the configuration.
        """
        floats = {k: v.float() if v.is_floating_point() else v for k, v in self.tensors.items()}
        try:
            # On "meta" no random weights are drawn only to be overwritten: seconds for VGG16.
            with torch.device("meta"):
                network = self.config.build()
            network.load_state_dict(floats, assign=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint's weights do not fit its configuration: {error}"
            ) from error
        return network.eval()

    def save(self, path: Path) -> None:
        """Write atomically; see `write_safetensors`."""
        header = {
            "format": FORMAT,
            "config": self.config.to_json(),
            "provenance": json.dumps(self.provenance, sort_keys=True),
        }
        write_safetensors(path, self.tensors, header)

    @classmethod
    def load(cls, path: Path | str) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            CheckpointError: missing, truncated, not safetensors, or not one of ours.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(
                f"there is no checkpoint at {path}", public=f"there is no checkpoint {path.name}"
            )
        try:
            header, tensors = read_safetensors(path)
        except (SafetensorError, OSError) as error:
            kind = kind_of_file(path)
            fault = "is not a readable safetensors file" + (f": the file is {kind}" if kind else "")
            raise _unusable(path, fault, f": {error}") from error
        if header.get("format") != FORMAT:
            found = f"its header states format {header.get('format')!r}, expected {FORMAT!r}"
            raise _unusable(path, f"is no Skyfix checkpoint: {found}")
        try:
            config = EncoderConfig.from_dict(json.loads(header["config"]))
            provenance = json.loads(header.get("provenance", "{}"))
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable(path, f"states a broken configuration: {error!r}") from error
        return cls(config, tensors, provenance)


def _unusable(path: Path, fault: str, detail: str = "") -> CheckpointError:
    """detail: text that may name a path, so that it is not public."""
    return CheckpointError(f"{path} {fault}{detail}", public=f"{path.name} {fault}")
