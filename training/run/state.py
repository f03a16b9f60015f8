"""All that a run needs to go on where it stopped, in one safetensors file.

Randomness is a function of (seed, epoch, sample), so no generator's state is kept: position,
weights, optimiser and queue are everything.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model.checkpoint import read_safetensors, write_safetensors
from model.errors import SkyfixError
from model.network import SiameseNetwork
from training.mining import HardNegativeQueue

FORMAT = "skyfix-training-4"  # another number where a resumed run would go on differently


class ResumeError(SkyfixError):
    """The saved state cannot be gone on with."""


class TrainingError(SkyfixError):
    """Training cannot go on; the last checkpoint on disk is intact."""


class Told:
    """A step's loss, and its gradient's length, on their way from the device."""

    def __init__(self, where: str, loss: Tensor, length: Tensor) -> None:
        self._where = where
        # Both at once: each number that is read waits for the GPU.
        self._values = torch.stack([loss.detach(), length]).to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if loss.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    def loss(self) -> float:
        """Waits for the step.

        Raises:
            TrainingError: the loss or its gradient is not a number; that step moved no weight.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        told: list[float] = self._values.tolist()
        for name, value in zip(("loss", "gradient's length"), told, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {name} is {value} {self._where}: "
                    "lower the learning rate, or look for broken images"
                )
        return told[0]


@dataclass
class TrainingState:
    """A run in progress.

    Attributes:
        run: what must be the same to go on, by name; "recipe" is the resolved one.
        epoch, step: the next batch to be trained on.
        total_loss: of this epoch's batches so far, but for what `settle` has yet to read.
        history: one report for each finished epoch.
        order: the pairs in the order in which this epoch takes them.
        seen: (2, N, D), descriptors of streets and aerials as last seen; None: not needed.
        scaler: of the loss in fp16; does nothing otherwise.
        averaged: the weights that are stored: the network's own, or their moving average.
    """

    run: dict[str, Any]
    network: SiameseNetwork
    optimiser: torch.optim.Optimizer
    queue: HardNegativeQueue | None
    seen: Tensor | None = None
    scaler: torch.amp.GradScaler = field(  # type: ignore[name-defined]
        default_factory=lambda: torch.amp.GradScaler(enabled=False)  # type: ignore[attr-defined]
    )
    seed: int = 0
    epoch: int = 0
    step: int = 0
    total_loss: float = 0.0
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    history: list[dict[str, Any]] = field(default_factory=list)
    averaged: dict[str, Tensor] = field(init=False)
    averaged_steps: int = 0
    untold: Told | None = None

    def __post_init__(self) -> None:
        self.averaged = self.network.state_dict()

    def average(self, decay: float) -> None:
        """Move the averaged weights toward the network's by 1 - decay; 0 makes them the same."""
        weights = self.network.state_dict()
        if not decay:
            self.averaged = weights
            return
        if not self.averaged_steps:
            self.averaged = {name: one.clone() for name, one in weights.items()}
        # At first the average follows closely: the initial weights are worth nothing.
        self.averaged_steps += 1
        floating = [name for name, one in weights.items() if one.is_floating_point()]
        move = get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
            min(decay, self.averaged_steps / (self.averaged_steps + 10.0))
        )
        move([self.averaged[name] for name in floating], [weights[name] for name in floating], None)
        for name in weights.keys() - floating:  # what batch norm counts has no mean
            self.averaged[name].copy_(weights[name])

    def tell(self, told: Told) -> None:
        """Count the step before this one: a GPU has this one to do meanwhile."""
        self.settle()
        self.untold = told

    def settle(self) -> None:
        """Count the last step as well. Raises TrainingError: see `Told.loss`."""
        if self.untold is not None:
            self.total_loss += self.untold.loss()
            self.untold = None

    def save(self, path: Path) -> None:
        """Write atomically: killed at any moment, the previous state is intact."""
        self.settle()
        header = {
            "format": FORMAT,
            "run": self._identity,
            "position": json.dumps(
                [self.epoch, self.step, self.total_loss, self.history, self.averaged_steps]
            ),
            "scaler": json.dumps(self.scaler.state_dict()),
        }
        write_safetensors(path, self._tensors(), header)

    def resume(self, path: Path) -> bool:
        """Take over the state at `path`; False where there is none yet.

        Raises:
            ResumeError: unreadable, or of another recipe, seed or set of pairs.
        """
        if not path.exists():
            return False
        try:
            header, tensors = read_safetensors(path)
        except (SafetensorError, OSError) as error:
            raise ResumeError(f"{path} is not a readable training state: {error}") from error
        if header.get("format") != FORMAT or header.get("run") != self._identity:
            raise ResumeError(
                f"{path} belongs to {self._other(header)}: choose another --out, or delete that "
                "file to start over"
            )
        position = json.loads(header["position"])
        self.epoch, self.step, self.total_loss, self.history, self.averaged_steps = position
        self.network.load_state_dict(_part(tensors, "network"))
        weights, averaged = self.network.state_dict(), _part(tensors, "averaged")
        # On the network's device and laid out as its weights: a file is neither.
        self.averaged = {
            name: one.clone().copy_(averaged.get(name, one)) for name, one in weights.items()
        }
        self._load_optimiser(_part(tensors, "optimiser"))
        sampling = _part(tensors, "sampling")
        self.order = sampling["order"].numpy()
        if self.seen is not None:
            self.seen.copy_(sampling["seen"])
        self.scaler.load_state_dict(json.loads(header["scaler"]))
        if self.queue is not None:
            self.queue.load_state_dict(_part(tensors, "queue"))
        return True

    @property
    def _identity(self) -> str:
        return json.dumps(list(self.run.values()))

    def _other(self, header: dict[str, str]) -> str:
        """What else than this run a state is of, and how that differs."""
        if header.get("format") != FORMAT:
            return "an earlier version of Skyfix, or to none"
        before, now = (
            _flat(dict(zip(self.run, json.loads(one), strict=True)))
            for one in (header["run"], self._identity)
        )
        names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        return f"another run (not the same: {', '.join(names)})"

    def _tensors(self) -> dict[str, Tensor]:
        parts: dict[str, dict[str, Tensor]] = {"network": self.network.state_dict()}
        if self.averaged_steps:
            parts["averaged"] = self.averaged
        parts["optimiser"] = {
            f"{index}.{name}": value
            for index, values in self.optimiser.state_dict()["state"].items()
            for name, value in values.items()
        }
        parts["sampling"] = {"order": torch.from_numpy(self.order)}
        if self.seen is not None:
            parts["sampling"]["seen"] = self.seen
        if self.queue is not None:
            parts["queue"] = self.queue.state_dict()
        return {f"{part}/{name}": t for part, one in parts.items() for name, t in one.items()}

    def _load_optimiser(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".")
            if value.ndim == 4:  # as the weights are laid out
                value = value.contiguous(memory_format=torch.channels_last)
            state.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """The recipe's fields beside the others."""
    others = dict(run)
    return {**others.pop("recipe"), **others}


def _part(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {name[len(prefix) :]: one for name, one in tensors.items() if name.startswith(prefix)}
