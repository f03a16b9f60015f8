"""The results of an ablation as the paper's table 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from training.evaluate import report


def summary(results: Mapping[str, Mapping[int, report.Metrics]], protocol: str) -> dict[str, Any]:
    """Rows with mean and deviation over seeds, and R@1's difference to the first row.

    The difference is paired by seed; its 95 % interval is Student's t, None for a single seed.
    """
    full = next(iter(results.values()))
    rows = {}
    for name, by_seed in results.items():
        metrics = [{protocol: result[protocol]} for result in by_seed.values()]
        difference = [by_seed[seed][protocol]["1"] - full[seed][protocol]["1"] for seed in by_seed]
        rows[name] = {
            "mean": report.mean(metrics)[protocol],
            "deviation": report.deviation(metrics)[protocol],
            "difference": float(np.mean(difference)),
            "interval": interval(difference),
            "seeds": len(by_seed),
        }
    return {"protocol": protocol, "rows": rows}


def interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean, by Student's t; None for fewer than two values."""
    count = len(differences)
    if count < 2:
        return None
    centre = float(np.mean(differences))
    half = float(stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / math.sqrt(count))
    return centre - half, centre + half


def markdown(table: Mapping[str, Any]) -> str:
    """Table 2: percentages, mean ± deviation over seeds, difference of R@1 with its interval."""
    names = ["1", "5", "10", "1%"]
    lines = [
        f"| {table['protocol']} | {' | '.join(f'R@{name}' for name in names)} | Δ R@1 [95 %] |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row_name, row in table["rows"].items():
        cells = [
            f"{100 * row['mean'][name]:.1f} ± {100 * row['deviation'][name]:.1f}" for name in names
        ]
        lines.append(f"| {row_name} | {' | '.join(cells)} | {_difference(row)} |")
    first = next(iter(table["rows"].values()))
    size = f"N = {first['mean']['N']:.10g}, K = {first['mean']['K']:.10g}"
    note = f"{size}; {first['seeds']} seeds; differences are paired by seed."
    return "\n".join(lines) + f"\n\n{note}\n"


def _difference(row: Mapping[str, Any]) -> str:
    text = f"{100 * row['difference']:+.1f}"
    if row["interval"] is None:
        return text
    low, high = row["interval"]
    return f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"
