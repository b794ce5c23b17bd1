#!/usr/bin/env python3
"""Draws target/bench/gateway.json: requests a second, CPU, added latency, each as SVG beside it. Needs matplotlib."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

PLOTS = {
    "requests": ("rps_c64", "requests a second at 64 connections"),
    "cpu": ("cpu_us_c64", "CPU for a request, microseconds"),
    "added": ("added_p50_us_c1", "added latency at one connection, p50, microseconds"),
    "added-p99": ("added_p99_us_1000", "added latency at 1,000 requests a second, p99, microseconds"),
    "first-token": ("ttft_added_us", "added time to the first token, p50, microseconds"),
    "memory": ("rss_mib", "memory, MiB"),
}


def draw(path: Path, title: str, column: str, systems: dict, rounds: list[dict]) -> None:
    bars = [(name, values[column]) for name, values in systems.items() if values.get(column) is not None]
    if not bars:
        return
    names, values = [name for name, _ in bars], [max(value, 0) for _, value in bars]
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(bars) + 1.2), layout="constrained")
    colours = ["#1b6e53" if name.startswith("smallfirst") else "#9aa5b1" for name in names]
    drawn = axes.barh(names, values, color=colours)
    axes.bar_label(drawn, labels=[f"{value:,}" for _, value in bars], padding=3)
    # Every round, so that the spread is seen.
    for row, name in enumerate(names):
        points = [turns[name]["figures"][column] for turns in rounds if column in turns.get(name, {}).get("figures", {})]
        axes.plot(points, [row] * len(points), "k|", markersize=8)
    most, least = max(values), min((value for value in values if value > 0), default=1)
    if most > 50 * least:
        axes.set_xscale("log")
        axes.set_xlim(left=least / 2)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    source = Path(sys.argv[1])
    result = json.loads(source.read_text())
    for name, (column, title) in PLOTS.items():
        draw(source.with_name(f"gateway-{name}.svg"), title, column, result["systems"], result["rounds"])


if __name__ == "__main__":
    main()
