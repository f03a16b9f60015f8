"""Plots: a piece of land on a street, its own frame, and what is put on it.

In a plot's frame u runs along the street and +v towards it; v = 0 is the carriageway's edge.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.town.numba_options import F32, F64, Flags, Triple, triple
from training.town.solids import LEVEL, Pair, Roof, solid
from training.town.style import Style

GREENS: tuple[Triple, ...] = ((62, 84, 44), (74, 92, 50), (52, 74, 46), (86, 98, 56))
BOARDS: tuple[Triple, ...] = ((190, 184, 172), (150, 128, 104), (120, 96, 78), (206, 204, 200))
SLABS: tuple[Triple, ...] = ((182, 178, 170), (160, 156, 150), (118, 116, 114), (168, 130, 106))
TRIMS: tuple[Triple, ...] = ((232, 230, 226), (214, 206, 190), (96, 82, 72), (70, 76, 84))


@dataclass
class Register:
    """Everything placed in a town so far, and the 1 m raster of what is taken."""

    style: Style
    rng: np.random.Generator
    taken: Flags
    solids: list[F32] = field(default_factory=list)
    patches: list[list[float]] = field(default_factory=list)  # rows of ground.stamp_patches
    stands: list[Triple] = field(default_factory=list)  # x, y, radians: where a car may park

    def pick(self, choices: tuple[Triple, ...], spread: float = 6.0) -> Triple:
        """One of the colours, a little brighter or darker, and a very little warmer or cooler."""
        light, warm = self.rng.normal(0, spread), self.rng.normal(0, 0.3 * spread)
        r, g, b = choices[self.rng.integers(len(choices))]
        return triple(np.clip((r + light + warm, g + light, b + light - warm), 15, 240), 0)


@dataclass(frozen=True)
class Plot:
    """One plot; all lengths in metres in its own frame."""

    register: Register
    origin: F64  # local metres of its middle on the carriageway's edge
    u: tuple[float, float]  # unit vector along the street
    width: float

    @property
    def style(self) -> Style:
        return self.register.style

    @property
    def rng(self) -> np.random.Generator:
        return self.register.rng

    @property
    def kerb(self) -> float:
        """Depth of what belongs to the street: verge and sidewalk."""
        return 3.3 if self.style.sidewalk != "none" else 1.1

    def point(self, u: Any, v: Any) -> tuple[Any, Any]:
        """Local metres (x, y) of numbers or arrays in the plot's frame."""
        x = self.origin[0] + u * self.u[0] - v * self.u[1]
        return x, self.origin[1] + u * self.u[1] + v * self.u[0]

    def free(self, u: float, v: float, half: Pair, gap: float = 0.0) -> bool:
        """Whether a rectangle and a gap around it are inside the raster and not taken."""
        x, y = self._cells(u, v, (half[0] + gap, half[1] + gap))
        taken = self.register.taken
        if min(x.min(), y.min()) < 0 or max(x.max(), y.max()) >= taken.shape[0]:
            return False
        return not taken[y, x].any()

    def take(self, u: float, v: float, half: Pair) -> None:
        x, y = self._cells(u, v, half)
        last = self.register.taken.shape[0] - 1
        self.register.taken[np.clip(y, 0, last), np.clip(x, 0, last)] = True

    def pave(
        self, u: float, v: float, half: Pair, colour: Triple, material: int, lines: float = 0.0
    ) -> None:
        """Lay a patch of ground; `lines` as in ground.stamp_patches."""
        row = [*self.point(u, v), *self.u, *half, *colour, material, lines]
        self.register.patches.append(row)

    def put(
        self, u: float, v: float, half: Pair, height: float, kind: int, wall: Triple,
        top: Triple | None = None, roof: Roof = LEVEL,
    ) -> F32:  # fmt: skip
        """Stand a solid on the plot; returns its row, for windows and doors to be set."""
        (x, y), seed = self.point(u, v), int(self.rng.integers(65536))
        row = solid(x, y, self.u, half, height, kind, wall, top, roof, seed)
        self.register.solids.append(row)
        return row

    def park(self, u: float, v: float) -> None:
        """A stand for a car that points to the street or away from it."""
        turn = math.pi * (0.5 + int(self.rng.integers(2)))
        self.register.stands.append((*self.point(u, v), math.atan2(self.u[1], self.u[0]) + turn))

    def _cells(self, u: float, v: float, half: Pair) -> tuple[np.ndarray, np.ndarray]:
        a = np.linspace(u - half[0], u + half[0], int(2 * half[0] / 0.8) + 2)
        b = np.linspace(v - half[1], v + half[1], int(2 * half[1] / 0.8) + 2)
        x, y = self.point(*np.meshgrid(a, b))
        return np.floor(x).astype(np.intp).ravel(), np.floor(y).astype(np.intp).ravel()
