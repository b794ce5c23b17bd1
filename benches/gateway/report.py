"""What came of all rounds: medians, what each adds to the backend alone, ratios to nginx; as JSON and as Markdown."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from statistics import median

from measure import Turn
from systems import System, output

# What a system adds, by what it is added to: the same figure of the backend alone, in the same round.
ADDED = {
    "added_p50_us_c1": "p50_us_c1",
    "added_p50_us_1000": "p50_us_1000",
    "added_p99_us_1000": "p99_us_1000",
    "ttft_added_us": "ttft_p50_us",
}
COLUMNS = ["rps_c1", "rps_c16", "rps_c64", "cpu_us_c64", *ADDED, "rss_mib", "rps_100kib_c16", "rps_1mib_c16"]
RATIOS = ["rps_c1", "rps_c16", "rps_c64", "cpu_us_c64", "added_p50_us_c1", "added_p99_us_1000", "rps_100kib_c16", "rps_1mib_c16"]
# What others are compared with, by whether the reply is long.
NGINX = {False: "nginx", True: "nginx-long"}
DIRECT = {False: "direct", True: "direct-long"}

Rounds = list[dict[str, Turn]]


def machine(systems: list[System]) -> dict[str, object]:
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory.group(1)) / 2**20) if memory else None,
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "wrk": output("wrk", "-v").split(" Copyright")[0],
        "versions": {system.name: system.version() for system in systems},
    }


def full(system: System, turns: dict[str, Turn]) -> dict[str, float]:
    """The figures of one round, with what the system adds."""
    turn, base = turns.get(system.name), turns.get(DIRECT[system.long])
    if not turn:
        return {}
    figures = dict(turn.figures)
    if base and system.start:
        for added, of in ADDED.items():
            if of in figures and of in base.figures:
                figures[added] = figures[of] - base.figures[of]
    return figures


def rounded(value: float) -> float:
    return round(value) if abs(value) >= 100 else round(value, 1)


def summary(systems: list[System], rounds: Rounds) -> dict[str, object]:
    named = {system.name: system for system in systems}
    figures = {system.name: [full(system, turns) for turns in rounds] for system in systems}
    medians, ratios, missing = {}, {}, {}
    for name, system in named.items():
        values = {column: [each[column] for each in figures[name] if column in each] for column in COLUMNS}
        medians[name] = {column: rounded(median(found)) if found else None for column, found in values.items()}
        ratios[name] = {"nginx": ratio(figures[name], figures.get("nginx"))}
        if system.long:
            ratios[name]["nginx-long"] = ratio(figures[name], figures.get("nginx-long"))
        told = [f"round {n + 1}: {why}" for n, turns in enumerate(rounds) if name in turns for why in turns[name].missing]
        if told:
            missing[name] = told
    return {"systems": medians, "ratios": ratios, "missing": missing}


def ratio(ours: list[dict[str, float]], base: list[dict[str, float]] | None) -> dict[str, dict[str, float]]:
    """The ratio within each round, because a machine's speed drifts: its median and its spread."""
    spread = {}
    for column in RATIOS:
        pairs = [(mine.get(column), its.get(column)) for mine, its in zip(ours, base or [])]
        found = [mine / its for mine, its in pairs if mine is not None and its is not None and its > 0]
        if found:
            spread[column] = {"median": round(median(found), 3), "min": round(min(found), 3), "max": round(max(found), 3)}
    return spread


HEADINGS = {
    "rps_c1": "requests/s, 1 connection",
    "rps_c16": "16",
    "rps_c64": "64",
    "cpu_us_c64": "CPU us a request",
    "added_p50_us_c1": "added us p50, 1 connection",
    "added_p50_us_1000": "at 1,000/s p50",
    "added_p99_us_1000": "p99",
    "ttft_added_us": "first token added us",
    "rss_mib": "memory MiB",
}


def markdown(result: dict) -> str:
    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:,}"

    def row(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    lines = [row(["system", *HEADINGS.values(), "ratio to nginx at 64 (spread)"]), row(["---"] * (len(HEADINGS) + 2))]
    for name, values in result["systems"].items():
        found = result["ratios"][name]["nginx"].get("rps_c64")
        told = f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})" if found else ""
        lines.append(row([name, *(cell(values[column]) for column in HEADINGS), told]))
    lines += ["", row(["system", "requests/s of 100 KiB, 16 connections", "1 MiB"]), row(["---"] * 3)]
    for name, values in result["systems"].items():
        if values["rps_100kib_c16"] or values["rps_1mib_c16"]:
            lines.append(row([name, cell(values["rps_100kib_c16"]), cell(values["rps_1mib_c16"])]))
    for name, ratios in result["ratios"].items():
        found = ratios.get("nginx-long", {}).get("rps_c64")
        if found and name.startswith("smallfirst"):
            lines += ["", f"{name} to nginx-long at 64: {found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"]
    for name, told in result["missing"].items():
        lines += ["", f"{name}, not measured: " + "; ".join(told)]
    return "\n".join(lines)
