"""How the painting kernels are compiled, and the arrays they are given.

No fastmath: the same seed must give the same bytes. The compiled code is cached on disk, and the
cache watches only the file of the outermost kernel: after editing a kernel that another file
calls, delete `__pycache__` before looking at pictures.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
I16 = npt.NDArray[np.int16]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Triple = tuple[float, float, float]  # a colour or a direction

compiled = njit(cache=True, nogil=True, error_model="numpy")
# For kernels that run once a pixel: a real call would count references to each array argument.
inlined = njit(cache=True, nogil=True, error_model="numpy", forceinline=True)


@inlined
def scaled(colour: Triple, factor: float) -> Triple:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@inlined
def triple(row: F32 | F64, start: int) -> Triple:
    """Three entries of a row, from `start` on."""
    return float(row[start]), float(row[start + 1]), float(row[start + 2])


@inlined
def span(low: float, high: float, metres: float, cells: int) -> tuple[int, int]:
    """(first, past the last) of the cells of a raster that lie between two coordinates."""
    return max(0, int(low / metres)), min(cells, int(high / metres) + 1)


@compiled
def faded(from_: Triple, to: Triple, share: float) -> Triple:
    """`from_` with that share of `to` mixed in."""
    return (
        from_[0] + (to[0] - from_[0]) * share,
        from_[1] + (to[1] - from_[1]) * share,
        from_[2] + (to[2] - from_[2]) * share,
    )
