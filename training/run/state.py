"""Everything that a run needs to resume, in one safetensors file.

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

FORMAT = "skyfix-training-4"  # another number where a resumed run would continue differently


class ResumeError(SkyfixError):
    """The saved state cannot be resumed."""


class TrainingError(SkyfixError):
    """Training cannot continue; the last checkpoint on disk is intact."""


class PendingLoss:
    """A step's loss and its gradient's length, on their way from the device."""

    def __init__(self, where: str, loss: Tensor, length: Tensor) -> None:
        self._where = where
        # Both in one copy: each copy from a GPU costs a wait.
        self._values = torch.stack([loss.detach(), length]).to("cpu", non_blocking=True)
        self._arrived = torch.cuda.Event() if loss.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> float:
        """Wait for the step and return its loss.

        Raises:
            TrainingError: the loss or its gradient is not finite; the step moved no weight.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        loss, length = self._values.tolist()
        for name, value in (("loss", loss), ("gradient's length", length)):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the {name} is {value} {self._where}: "
                    "lower the learning rate, or look for broken images"
                )
        return float(loss)


@dataclass
class TrainingState:
    """A run in progress.

    Attributes:
        run: values by name that must stay the same for a resume; "recipe" is the resolved one.
        epoch, step: the next batch to be trained on.
        total_loss: sum over this epoch's batches so far, without `pending`.
        history: one report for each finished epoch.
        order: the pairs in the order in which this epoch takes them.
        seen: (2, N, D), the most recent descriptors of streets and aerials; None: not needed.
        scaler: loss scaling for fp16; does nothing otherwise.
        averaged: the weights to store: the network's own, or their moving average.
        pending: the last step's loss, which may not have arrived yet.
    """

    run: dict[str, Any]
    network: SiameseNetwork
    optimiser: torch.optim.Optimizer
    queue: HardNegativeQueue | None
    seen: Tensor | None
    scaler: torch.amp.GradScaler  # type: ignore[name-defined]
    seed: int
    epoch: int = 0
    step: int = 0
    total_loss: float = 0.0
    order: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    history: list[dict[str, Any]] = field(default_factory=list)
    averaged: dict[str, Tensor] = field(init=False)
    averaged_steps: int = 0
    pending: PendingLoss | None = None

    def __post_init__(self) -> None:
        self.averaged = self.network.state_dict()

    def average(self, decay: float) -> None:
        """Move the averaged weights toward the network's by 1 - decay; 0 makes them the same."""
        weights = self.network.state_dict()
        if not decay:
            self.averaged = weights
            return
        if not self.averaged_steps:
            self.averaged = {name: tensor.clone() for name, tensor in weights.items()}
        # At first the average follows closely: the initial weights are worth nothing.
        self.averaged_steps += 1
        floating = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        move = get_ema_multi_avg_fn(  # type: ignore[no-untyped-call]
            min(decay, self.averaged_steps / (self.averaged_steps + 10.0))
        )
        move([self.averaged[name] for name in floating], [weights[name] for name in floating], None)
        for name in weights.keys() - floating:  # batch norm's counters have no mean
            self.averaged[name].copy_(weights[name])

    def add_loss(self, pending: PendingLoss) -> None:
        """Add the previous step's loss to the total: a GPU computes this step meanwhile."""
        self.settle()
        self.pending = pending

    def settle(self) -> None:
        """Add the last step's loss to the total. Raises TrainingError as `PendingLoss.wait`."""
        if self.pending is not None:
            self.total_loss += self.pending.wait()
            self.pending = None

    def save(self, path: Path) -> None:
        """Write atomically: a kill at any moment leaves the previous state intact."""
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
        """Load the state at `path`; False if there is none.

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
                f"{path} belongs to {self._owner(header)}: choose another --out, or delete that "
                "file to start over"
            )
        position = json.loads(header["position"])
        self.epoch, self.step, self.total_loss, self.history, self.averaged_steps = position
        self.scaler.load_state_dict(json.loads(header["scaler"]))
        self._load_tensors(tensors)
        return True

    @property
    def _identity(self) -> str:
        return json.dumps(list(self.run.values()))

    def _owner(self, header: dict[str, str]) -> str:
        """The run that a state with this header belongs to, and its differences to this run."""
        if header.get("format") != FORMAT:
            return "an earlier version of Skyfix, or to none"
        before, now = (
            _flat(dict(zip(self.run, json.loads(identity), strict=True)))
            for identity in (header["run"], self._identity)
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
        return {
            f"{part}/{name}": tensor
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }

    def _load_tensors(self, tensors: dict[str, Tensor]) -> None:
        parts: dict[str, dict[str, Tensor]] = {"averaged": {}, "optimiser": {}}
        for key, tensor in tensors.items():
            part, _, name = key.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self.network.load_state_dict(parts["network"])
        # Copies of the weights: their device and memory layout, which a file does not keep.
        self.averaged = {
            name: weight.clone().copy_(parts["averaged"].get(name, weight))
            for name, weight in self.network.state_dict().items()
        }
        self._load_optimiser(parts["optimiser"])
        self.order = parts["sampling"]["order"].numpy()
        if self.seen is not None:
            self.seen.copy_(parts["sampling"]["seen"])
        if self.queue is not None:
            self.queue.load_state_dict(parts["queue"])

    def _load_optimiser(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            index, name = key.split(".")
            if value.ndim == 4:  # in the memory layout of the weights
                value = value.contiguous(memory_format=torch.channels_last)
            state.setdefault(int(index), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


def _flat(run: dict[str, Any]) -> dict[str, Any]:
    """The recipe's fields beside the other values."""
    others = dict(run)
    return {**others.pop("recipe"), **others}
