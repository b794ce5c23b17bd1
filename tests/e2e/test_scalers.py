"""Two autoscalers at a time are seen, and a reset. Needs no cluster."""

from __future__ import annotations

import unittest
from typing import Any

from scalers import Change, change, in_turn, replicas


def event(version: int, kind: str, name: str, gone: bool = False, of: str = "", target: str = "pool", **spec: Any) -> Change:
    owners = {"ownerReferences": [{"kind": "ScaledObject", "name": of}]} if of else {}
    body = {"kind": kind, "metadata": {"name": name, "resourceVersion": str(version)} | owners, "spec": spec}
    if kind != "Deployment":
        body["spec"]["scaleTargetRef"] = {"name": target}
    return change({"type": "DELETED" if gone else "MODIFIED", "object": body})


HPA, KEDA = "HorizontalPodAutoscaler", "ScaledObject"
# As the watches told it: each kind's in its order, one after the other.
HANDED_OVER = [
    event(1, HPA, "pool"),
    event(3, HPA, "pool", gone=True),
    event(6, HPA, "keda-hpa-pool", of="pool"),
    event(9, HPA, "keda-hpa-pool", gone=True, of="pool"),
    event(12, HPA, "pool"),
    event(5, KEDA, "pool"),
    event(8, KEDA, "pool", gone=True),
]
TURNS = ["HorizontalPodAutoscaler pool", "ScaledObject pool", "HorizontalPodAutoscaler pool"]


class Scalers(unittest.TestCase):
    def test_one_after_the_other_is_no_fight(self) -> None:
        self.assertEqual(in_turn(HANDED_OVER, "pool"), (TURNS, []))
        others = [event(2, HPA, "theirs", target="other"), event(4, KEDA, "theirs", target="other")]
        self.assertEqual(in_turn(HANDED_OVER + others, "pool"), (TURNS, []))

    def test_two_at_a_time_are_seen(self) -> None:
        early = [event(2, KEDA, "pool")]
        late = [each for each in HANDED_OVER if not (each.gone and each.kind == HPA and each.owner)]
        for changes, wanted in (
            (HANDED_OVER + early, "at 2: HorizontalPodAutoscaler pool and ScaledObject pool"),
            (late, "at 12: HorizontalPodAutoscaler pool and ScaledObject pool"),
            ([*HANDED_OVER, event(13, HPA, "mine")], "at 13: HorizontalPodAutoscaler mine and HorizontalPodAutoscaler pool"),
        ):
            self.assertEqual(in_turn(changes, "pool")[1][:1], [wanted])

    def test_a_reset_is_seen(self) -> None:
        numbers = ((1, 2), (2, 4), (4, 1), (3, 4), (5, 4))
        changes = [event(version, "Deployment", "pool", replicas=number) for version, number in numbers]
        self.assertEqual(replicas([*changes, event(6, "Deployment", "other", replicas=9)], "pool"), [2, 4, 1, 4])


if __name__ == "__main__":
    unittest.main()
