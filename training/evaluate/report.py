"""Metrics of evaluations: means over datasets and checkpoints, and their text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Metrics = Mapping[str, Mapping[str, float]]  # by protocol and by name of the metric
_SHARES = ("1", "5", "10", "1%", "hit")


def mean(reports: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Mean of every metric that all reports of the same protocols have."""
    return {
        protocol: {
            name: float(np.mean([report[protocol][name] for report in reports]))
            for name in reports[0][protocol]
            if all(name in report[protocol] for report in reports)
        }
        for protocol in reports[0]
    }


def deviation(reports: Sequence[Metrics]) -> dict[str, dict[str, float]]:
    """Sample standard deviation of every metric; 0 for a single report."""
    return {
        protocol: {
            name: float(np.std([report[protocol][name] for report in reports], ddof=1))
            if len(reports) > 1
            else 0.0
            for name in metrics
        }
        for protocol, metrics in mean(reports).items()
    }


def lines(document: Mapping[str, Any]) -> list[str]:
    """Weights, data and a line for each protocol's mean, for people; shares in percent."""
    return [
        *_weights(document),
        _caption(document),
        *(f"{protocol:8} {line(means)}" for protocol, means in document["mean"].items()),
    ]


def line(values: Mapping[str, float]) -> str:
    """A protocol's metrics in a line; shares in percent."""
    return "  ".join(
        f"{_heading(name)} {_cell(name, value, None)}" for name, value in values.items()
    )


def markdown(document: Mapping[str, Any]) -> str:
    """A table with a row for each protocol; several checkpoints give mean ± deviation."""
    means, spread = document["mean"], document.get("deviation", {})
    names = list(dict.fromkeys(name for metrics in means.values() for name in metrics))
    rows = [["protocol", *map(_heading, names)], ["---", *["---:"] * len(names)]]
    for protocol, metrics in means.items():
        cells = [
            _cell(name, metrics.get(name), spread.get(protocol, {}).get(name)) for name in names
        ]
        rows.append([protocol, *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    protocols = [f"{name}: {text}" for name, text in document["protocols"].items()]
    notes = "\n".join(f"- {note}" for note in (*_weights(document), *protocols))
    return f"{table}\n\n{_caption(document)}\n\n{notes}\n"


def _weights(document: Mapping[str, Any]) -> list[str]:
    """Each checkpoint's file and fingerprint."""
    checkpoints = document.get("checkpoints", [document])
    return [f"weights {each['weights']} ({each['encoder'][:12]})" for each in checkpoints]


def _caption(document: Mapping[str, Any]) -> str:
    """The data, the number of queries, the random seed, and the angles of "fov"."""
    counts, options = document["queries"].values(), document["options"]
    sets = f" in {len(counts)} sets, averaged" if len(counts) > 1 else ""
    angles = ", ".join(f"{angle:g}" for angle in options["fov_deg"])
    seen = f"; {angles} degrees seen" if "fov" in document["protocols"] else ""
    where = f"{document['dataset']}, split {document['split']}"
    return f"{where}: {sum(counts)} queries{sets}; seed {options['seed']}{seen}."


def _heading(name: str) -> str:
    if name in _SHARES[:4]:
        return f"R@{name}"
    if name.endswith(" m"):
        return f"within {name}"
    return {"median_m": "median m", "median_heading_deg": "median heading error °"}.get(name, name)


def _cell(name: str, value: float | None, spread: float | None) -> str:
    if value is None:
        return ""
    if name in ("N", "K"):
        return f"{value:.10g}"
    share = name in _SHARES or name.endswith(" m")
    scale, digits = (100.0, 1) if share else (1.0, 2)
    cell = f"{value * scale:.{digits}f}"
    return cell if spread is None else f"{cell} ± {spread * scale:.{digits}f}"
