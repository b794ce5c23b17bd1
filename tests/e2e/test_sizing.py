"""A pool that is to be sized: what it needs for the requests that routers count, and why."""

from __future__ import annotations

import json
from typing import Any

from kube import wait_for
from portfolio import NAMESPACE, Case, get, kubectl
from traffic import rows

TIER = "smallfirst.dev/tier=compact"


def patch(sizing: dict[str, Any] | None) -> None:
    kubectl("patch", "mt", "compact", "-n", NAMESPACE, "--type", "merge", "-p", json.dumps({"spec": {"pool": {"sizing": sizing}}}))


def sized() -> dict[str, Any]:
    status = get("mt", "compact")["status"]
    found = [condition for condition in status["conditions"] if condition["type"] == "Sized"]
    return {**status.get("sizing", {}), "condition": found[0] if found else None}


class Sizing(Case):
    def test_a_pool_is_sized_by_what_routers_count_and_restarts_nothing(self) -> None:
        def pods() -> list[str]:
            return sorted(kubectl("get", "pods", "-n", NAMESPACE, "-l", TIER, "-o", "jsonpath={.items[*].metadata.name}").split())

        before = pods()
        replicas = get("mt", "compact")["spec"]["pool"]["replicas"]
        self.assertIsNone(sized()["condition"], "nobody asked for it yet")
        patch({"against": [{"name": "frontier"}], "absorb": "0.5", "waitTarget": {"within": "2s"}})
        self.addCleanup(patch, None)
        wait_for("the condition Sized", 20, lambda: sized()["condition"] is not None)
        asked = rows("intents-frontier.jsonl")
        for row in asked[:20]:
            self.assertEqual(self.client.ask("compact-only", row).error, "")
        # Measured, and then looked at every 15 s.
        wait_for("a size", 90, lambda: sized().get("binding", "Unknown") != "Unknown")
        said = sized()
        print(f"\n  {said['message']}")
        self.assertGreater(float(said["requestsPerSecond"]), 0)
        self.assertGreaterEqual(said["slots"], 1)
        self.assertEqual(said["ceiling"], replicas)
        self.assertTrue(1 <= said["floor"] <= said["ceiling"], said)
        self.assertIn("req/s", said["message"])
        enough = said["needed"] <= replicas
        self.assertEqual(said["condition"]["status"], str(enough), said)
        self.assertEqual(said["condition"]["reason"], "EnoughReplicas" if enough else "SizingLimited", said)
        row = kubectl("get", "mt", "compact", "-n", NAMESPACE).splitlines()
        self.assertEqual(row[1].split()[row[0].split().index("FLOOR")], str(said["floor"]))
        self.assertEqual(pods(), before, "nothing of it is in a pod")

        patch(None)
        wait_for("its end", 20, lambda: sized() == {"condition": None})
