"""Whether replicas follow a load. Pure: of a series with a row each second, as `peak.py` has seen it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

# Longest time between two rows: longer, and this machine was stopped, with all that runs on it.
GAP = 15
# For how many seconds replicas may be outside of a bound that has just moved: two looks of an autoscaler, and some.
LAG = 20


def outside(series: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that have been beyond floor or ceiling for longer than `LAG`. A bound of 0 is none."""
    found, since = [], None
    for now in series:
        if now["replicas"] >= now["floor"] and (now["replicas"] <= now["ceiling"] or not now["ceiling"]):
            since = None
        elif since is None:
            since = now["at"]
        elif now["at"] - since > LAG:
            found.append(now)
    return found


def turns(series: list[dict[str, Any]]) -> int:
    """How often they turned round: an autoscaler that follows noise does it more than once."""
    steps = [b["replicas"] - a["replicas"] for a, b in pairwise(series) if a["replicas"] != b["replicas"]]
    return sum((a > 0) != (b > 0) for a, b in pairwise(steps))


def problems(series: list[dict[str, Any]], phases: tuple[tuple[float, int], ...], most: int) -> list[str]:
    """What was not as it should be under a load that rises and falls again."""
    begin, end = phases[0][1], phases[0][1] + phases[1][1]
    during = [now["replicas"] for now in series if begin < now["at"] < end]
    before = [now["replicas"] for now in series if now["at"] <= begin]
    # Each look takes a part of a second itself.
    if len(series) < sum(seconds for _, seconds in phases) / 3 or not during or not before:
        return [f"only {len(series)} rows were seen"]
    pairs = [(a["at"], b["at"]) for a, b in pairwise(series)]
    found = [f"nothing was seen from {a:.0f} s to {b:.0f} s" for a, b in pairs if b - a > GAP]
    if max(during) <= before[-1]:
        found.append(f"{before[-1]} replicas before the peak, at most {max(during)} during it")
    # As far as its floor lets it: that of a pool whose demand was seen to need them stays for longer than a test.
    if series[-1]["replicas"] >= max(during) > series[-1]["floor"]:
        found.append(f"at most {max(during)} replicas during the peak, {series[-1]['replicas']} at the end")
    if sum(now["ceiling"] > 0 for now in series) < len(series) / 2:
        found.append("in half of the time or more there was no autoscaler")
    found += [f"more than {most}: {now}" for now in series if max(now["replicas"], now["ceiling"]) > most]
    found += [f"the floor is above the ceiling: {now}" for now in series if now["floor"] > (now["ceiling"] or most)]
    found += [f"not between floor and ceiling for more than {LAG} s: {now}" for now in outside(series)]
    if turns(series) > 1:
        found.append(f"the replicas turned round {turns(series)} times")
    return found
