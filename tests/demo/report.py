"""The demo's table: what the path did, against small alone, frontier alone and chance."""

from __future__ import annotations

from collections import Counter

from traffic import Reply


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:5.1f} %" if whole else "    -"


def accuracy(replies: list[Reply]) -> float:
    return sum(reply.correct for reply in replies) / len(replies)


def mean_cost(replies: list[Reply]) -> float:
    return sum(reply.cost for reply in replies) / len(replies)


def table(path: list[Reply], small: list[Reply], frontier: list[Reply]) -> tuple[str, list[str]]:
    """The table, and what of the demo's promises does not hold."""
    escalated = [reply for reply in path if reply.escalated]
    ratio = len(escalated) / len(path)
    # Escalating the same share at random: every message keeps its own two answers' accuracy.
    random = (1 - ratio) * accuracy(small) + ratio * accuracy(frontier)
    why = ", ".join(f"{reason} {n}" for reason, n in Counter(r.reason for r in escalated).most_common())
    cost, dear = mean_cost(path), mean_cost(frontier)
    lines = [
        f"  requests                       {len(path)}",
        f"  answered small                 {share(len(path) - len(escalated), len(path))}",
        f"  escalated                      {share(len(escalated), len(path))}  ({why})",
        f"  accuracy, small alone          {share(accuracy(small), 1)}",
        f"  accuracy, the path             {share(accuracy(path), 1)}",
        f"  accuracy, random escalation    {share(random, 1)}  (same ratio, expected)",
        f"  accuracy, frontier alone       {share(accuracy(frontier), 1)}",
        f"  cost a request, the path       {cost:.9f} USD",
        f"  cost a request, frontier alone {dear:.9f} USD",
        f"  saved                          {share(dear - cost, dear)}",
    ]
    broken = []
    if accuracy(path) <= random:
        broken.append("the path is not above random escalation at the same ratio")
    if cost >= dear:
        broken.append("the path costs as much as the frontier alone")
    return "\n".join(lines), broken
