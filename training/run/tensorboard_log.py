"""TensorBoard events of a training run; needs the extra `tensorboard`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model.errors import SkyfixError
from training import distributed


class TensorboardError(SkyfixError):
    """TensorBoard is not installed."""


@contextmanager
def tensorboard_log(folder: Path, *, wanted: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A function that writes a line of the log as scalars by epoch; without `wanted`, nothing.

    Raises:
        TensorboardError: the extra `tensorboard` is not installed.
    """
    if not wanted or not distributed.is_first():
        yield lambda report: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TensorboardError(
            "tensorboard is not installed: pip install 'skyfix[tensorboard]'"
        ) from error
    with SummaryWriter(folder) as writer:

        def write(report: Mapping[str, Any]) -> None:
            for name, value in report.items():
                if name != "epoch":
                    writer.add_scalar(name, value, report["epoch"])
            writer.flush()

        yield write
