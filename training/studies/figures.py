"""The paper's figures of a checkpoint: attention (6), recall over epochs (7), descriptors on a
plane (8), and the tiles found for streets (9). Needs the extra `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.checkpoint import Checkpoint
from model.errors import SkyfixError
from model.images import Rgb
from model.preprocessing import Preprocessing, to_pixels, to_tensor
from training.data.arrays import Arrays
from training.evaluate.encoded_pairs import EncodedPairs, centred_tiles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Masks = NDArray[np.float32]

RIGHT, WRONG = "#1a9850", "#d73027"
TOP = 5


class FigureError(SkyfixError):
    """A figure cannot be drawn."""


def attention(checkpoint: Checkpoint, arrays: Arrays, rows: Sequence[int], path: Path) -> Path:
    """Figure 6: both branches' mean masks, then how the masks of the pairs in `rows` differ from
    them, over the strip, its projection and the tile.

    Most of a mask depends on the position alone, and would hide what it makes of its image.

    Raises:
        FigureError: the network has no attention.
    """
    preprocessing = checkpoint.config.preprocessing
    means, differences = mask_differences(checkpoint, arrays)
    wide = preprocessing.strip_size[1] / preprocessing.strip_size[0]
    figure = _figure(2.0 * (wide + 2.2), 2.05 * (len(rows) + 1))
    axes = figure.subplots(len(rows) + 1, 3, squeeze=False, width_ratios=[wide, 1, 1])
    axes[0, 0].set_axis_off()
    for axis, mean in zip(axes[0, 1:], means, strict=True):
        shown = axis.imshow(mean, cmap="gray", vmin=0.0, vmax=1.0)
        axis.set_xlabel(f"{mean.min():.2f} to {mean.max():.2f}", fontsize=7)
    figure.colorbar(shown, ax=axes[0]).set_label(f"mean of {len(arrays)}", fontsize=7)
    most, tiles = max(float(np.abs(differences[list(rows)]).max()), 1e-6), centred_tiles(arrays)
    for line, row in zip(axes[1:], rows, strict=True):
        strip, north = arrays.strips[row], float(arrays.norths[row])
        street, aerial = differences[row]
        view = to_pixels(preprocessing.project(to_tensor([strip]), north))
        seen = back_projected(street, strip, north, preprocessing)
        panels = [(strip, seen), (view, street), (tiles[row], aerial)]
        for axis, (image, change) in zip(line, panels, strict=True):
            axis.imshow(image)
            shown = axis.imshow(change, cmap="coolwarm", vmin=-most, vmax=most, alpha=0.5)
            axis.set_xlabel(f"{np.nanmin(change):+.2f} to {np.nanmax(change):+.2f}", fontsize=7)
    figure.colorbar(shown, ax=axes[1:], shrink=0.5, aspect=40).set_label("less the mean")
    for axis, name in zip(axes[0, 1:], ("projected street", "aerial"), strict=True):
        axis.set_title(name, fontsize=9)
    return _saved(figure, path)


def mask_differences(checkpoint: Checkpoint, arrays: Arrays) -> tuple[Masks, Masks]:
    """The pairs' mean masks, (2, S, S), and each pair's masks less these, (N, 2, S, S): of the
    projected street, then of the tile, upsampled bilinearly to the input's size.

    Raises:
        FigureError: the network has no attention.
    """
    masks, size = _masks(checkpoint, arrays), (checkpoint.config.preprocessing.input_size,) * 2
    mean = masks.mean(0, keepdim=True)
    means, differences = (
        functional.interpolate(values, size, mode="bilinear").numpy()
        for values in (mean, masks - mean)
    )
    return means[0], differences


@torch.inference_mode()
def _masks(checkpoint: Checkpoint, arrays: Arrays) -> Tensor:
    """Both branches' masks of each pair, (N, 2, H, W), as large as the features."""
    network, preprocessing = checkpoint.network(), checkpoint.config.preprocessing
    masks = []
    pairs = zip(arrays.strips, arrays.norths, centred_tiles(arrays), strict=True)
    for strip, north, tile in pairs:
        view = preprocessing.project(to_tensor([strip]), float(north))
        for branch, image in ((network.street, view), (network.aerial, to_tensor([tile]))):
            mask = branch.attention_mask(preprocessing.normalise(image))
            if mask is None:
                raise FigureError("figure 6 needs a network with attention: this one has none")
            masks.append(mask[0, 0])
    return torch.stack(masks).view(len(arrays), 2, *masks[0].shape)


def back_projected(mask: Masks, strip: Rgb, north: float, preprocessing: Preprocessing) -> Masks:
    """A mask (S, S) of the projection as a mask of the strip (h, w); NaN outside the projection.

    The projection is linear in the strip, so its gradient gives the weight of each strip pixel in
    each projected pixel. A strip pixel gets the weighted mean of the mask. Projected pixels near
    the camera hold few strip pixels: a finer projection and a mean over 7 pixels fill the gaps.
    """
    side = 4 * preprocessing.input_size
    fine = replace(preprocessing, input_size=side)
    values = functional.interpolate(torch.from_numpy(mask)[None, None], (side, side))
    weighted, weight = (
        _gradient_of(fine, view.expand(1, 3, side, side), strip.shape[:2], north)
        for view in (values, torch.ones_like(values))
    )
    result: Masks = torch.where(weight > 1e-6, weighted / weight, torch.nan).numpy()
    return result


def _gradient_of(
    preprocessing: Preprocessing, view: Tensor, size: tuple[int, ...], north: float
) -> Tensor:
    pixels = torch.zeros(1, 3, *size, requires_grad=True)
    projected = preprocessing.project(pixels, north)
    (gradient,) = torch.autograd.grad(projected, pixels, view)
    around = functional.pad(gradient[:, :1], (3, 3, 0, 0), mode="circular")
    around = functional.pad(around, (0, 0, 3, 3), mode="replicate")
    return functional.avg_pool2d(around, 7, stride=1)[0, 0]


def check_plane(pairs: int) -> Any:
    """scikit-learn's module for `plane`, if `plane` can draw so many pairs. Raises FigureError."""
    if pairs < 3:
        raise FigureError(f"{pairs} pairs make no t-SNE: at least 3")
    return _extra("sklearn.manifold")


def plane(encoded: EncodedPairs, path: Path, seed: int = 0) -> Path:
    """Figure 8: t-SNE of street and aerial descriptors; each pair is joined by a line.

    Raises:
        FigureError: fewer than three pairs, or the extra `figures` is not installed.
    """
    street, aerial = encoded.street, encoded.aerial[encoded.right]
    manifold = check_plane(len(street))
    tsne = manifold.TSNE(
        perplexity=min(30.0, len(street) / 3.0), init="pca", metric="cosine", random_state=seed
    )
    points = tsne.fit_transform(np.concatenate([street, aerial]).astype(np.float64))
    streets, aerials = points[: len(street)], points[len(street) :]
    figure = _figure(6.0, 6.0)
    axis = figure.subplots()
    for pair in zip(streets, aerials, strict=True):
        axis.plot(*np.array(pair).T, color="0.7", linewidth=0.6, zorder=1)
    for points, marker, colour, name in (
        (streets, "o", "#4575b4", "street"),
        (aerials, "^", "#fc8d59", "aerial"),
    ):
        x, y = points.T
        axis.scatter(x, y, s=14, marker=marker, color=colour, label=name, zorder=2)
    axis.legend(loc="best", fontsize=8)
    axis.set_title(f"t-SNE of {len(street)} pairs", fontsize=9)
    return _saved(figure, path)


def retrieval(
    encoded: EncodedPairs,
    preprocessing: Preprocessing,
    arrays: Arrays,
    rows: Sequence[int],
    path: Path,
) -> Path:
    """Figure 9: streets, their projections, their best tiles among all pairs', and the right tile,
    framed in green, again at the end."""
    tiles = centred_tiles(arrays)
    top = min(TOP, len(encoded.aerial))
    wide = arrays.strips.shape[2] / arrays.strips.shape[1]
    figure = _figure(1.5 * (wide + top + 2.4), 1.8 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), top + 3, squeeze=False, width_ratios=[wide] + [1] * (top + 2))
    for line, row in zip(axes, rows, strict=True):
        strip = arrays.strips[row]
        line[0].imshow(strip)
        view = preprocessing.project(to_tensor([strip]), float(arrays.norths[row]))
        line[1].imshow(to_pixels(view))
        own = encoded.right[row]
        for axis, tile in zip(line[2:], (*encoded.best(row, top), own), strict=True):
            axis.imshow(tiles[encoded.rows[tile]])
            metres = encoded.metres(row, tile)
            away = "" if np.isnan(metres) or tile == own else f", {metres:.0f} m off"
            axis.set_xlabel(f"{encoded.cosine(row, tile):.3f}{away}", fontsize=7)
            for spine in axis.spines.values():
                spine.set(color=RIGHT if tile == own else WRONG, linewidth=3.0)
    names = ("query", "projected", *range(1, top + 1), "right")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(str(name), fontsize=9)
    return _saved(figure, path, frames=True)


def curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path) -> Path:
    """Figure 7: recall@1 over epochs for each row: mean and spread of its runs.

    histories: the log lines of each run, by row.
    """
    figure = _figure(6.0, 4.0)
    axis = figure.subplots()
    for name, runs in histories.items():
        length = min(map(len, runs))
        recall = 100.0 * np.array([[epoch["1"] for epoch in run[:length]] for run in runs])
        epochs = np.arange(1, length + 1)
        (line,) = axis.plot(epochs, recall.mean(0), marker=".", label=name)
        low, high = recall.min(0), recall.max(0)
        axis.fill_between(epochs, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel="epochs", ylabel="recall@1 (%)", ylim=(0, 100))
    axis.grid(alpha=0.3)
    axis.legend()
    return _saved(figure, path, axes=True)


def _figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, that needs no display."""
    figure: Figure = _extra("matplotlib.figure").Figure((width, height), layout="constrained")
    return figure


def _saved(figure: Figure, path: Path, *, axes: bool = False, frames: bool = False) -> Path:
    for axis in figure.axes:
        if not axes and axis.get_label() != "<colorbar>":
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(frames and spine.get_linewidth() > 2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _extra(module: str) -> Any:
    """A module of the extra `figures`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise FigureError(
            f"{module.split('.')[0]} is not installed: pip install 'skyfix[figures]'"
        ) from error
