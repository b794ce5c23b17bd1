"""Draws what an autoscaler did: replicas between floor and ceiling, and how long requests took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "target/e2e"


def draw(
    name: str, series: list[dict[str, Any]], answers: list[tuple[float, float]], phases: tuple[tuple[float, int], ...]
) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps({"phases": phases, "series": series, "answers": answers}))
    figure, (demand, replicas, latency) = pyplot.subplots(3, sharex=True, figsize=(9, 7), layout="constrained")
    edges = [0.0]
    for _, seconds in phases:
        edges.append(edges[-1] + seconds)
    demand.stairs([rate for rate, _ in phases], edges)
    demand.set_ylabel("requests/s")
    at = [now["at"] for now in series]
    for line in ("replicas", "ready", "floor", "ceiling"):
        replicas.step(at, [now[line] for now in series], where="post", label=line)
    replicas.legend()
    replicas.set_ylabel("replicas")
    latency.plot([begin for begin, _ in answers], [seconds for _, seconds in answers], ".", markersize=3)
    latency.set_ylabel("seconds")
    latency.set_xlabel("seconds since the start")
    figure.savefig(FOLDER / f"{name}.svg")
    pyplot.close(figure)
