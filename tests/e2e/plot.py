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
    name: str,
    series: list[dict[str, Any]],
    answers: list[tuple[float, float]],
    phases: tuple[tuple[float, int], ...],
    folder: Path = FOLDER,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"phases": phases, "series": series, "answers": answers}))
    figure, (demand, replicas, queue, latency) = pyplot.subplots(4, sharex=True, figsize=(9, 9), layout="constrained")
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
    # Where the engine does not say, there is no line.
    queue.step(at, [float("nan") if now["queue"] is None else now["queue"] for now in series], where="post")
    queue.set_ylabel("requests that wait")
    latency.plot([begin for begin, _ in answers], [seconds for _, seconds in answers], ".", markersize=3)
    latency.set_ylabel("seconds")
    latency.set_xlabel("seconds since the start")
    figure.savefig(folder / f"{name}.svg")
    pyplot.close(figure)
