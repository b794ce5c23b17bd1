"""Left alone, smallfirst writes nothing but its Lease; making a tier costs its children and two status writes."""

from __future__ import annotations

import time

from audit import Window
from portfolio import Case, delete_namespace, kubectl
from kube import apply, wait_for

TIER = """
apiVersion: v1
kind: Namespace
metadata: {name: e2e-cost, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: three, namespace: e2e-cost}
spec:
  class: Small
  owner: ml-platform
  model: {name: smollm2-135m-instruct, contextTokens: 8192}
  pool:
    engine: LlamaCpp
    image: smallfirst.local/llama-server:dev
    modelFrom: {path: /models/smollm2-135m-instruct.gguf}
    replicas: 3
    perReplica: {concurrency: 2}
    resources: {requests: {cpu: 20m, memory: 256Mi}}
"""

# What requests came to is written within half a minute.
FIGURES = 35


def quiet(seconds: float) -> None:
    """Wait until smallfirst has written nothing for so long."""
    window, begin, seen = Window(), time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        time.sleep(0.5)
        if len(window.writes()) != seen:
            seen, begin = len(window.writes()), time.monotonic()


class Idle(Case):
    def test_silence_with_an_operator_restart(self) -> None:
        self.ask()
        quiet(FIGURES)
        window = Window()
        time.sleep(30)
        kubectl("delete", "pod", "-n", "smallfirst-system", "-l", "app.kubernetes.io/name=smallfirst")
        kubectl("rollout", "status", "-n", "smallfirst-system", "deployment/smallfirst", "--timeout=60s")
        time.sleep(30)
        updates = [each for each in window.requests() if each["verb"] == "update"]
        leases = [each for each in updates if each["objectRef"]["resource"] == "leases"]
        self.assertGreater(len(leases), 10, "the audit log must show that the operator was there")
        self.assertEqual(window.writes(), [])
        self.assertEqual(window.refused(), [])

    def test_cost_of_a_tier(self) -> None:
        quiet(FIGURES)
        window = Window()
        apply(TIER)
        self.addCleanup(delete_namespace, "e2e-cost")

        def rolled_out() -> bool:
            text = kubectl("get", "mt", "three", "-n", "e2e-cost", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status} {.status.replicas}")
            return text == "True 3"

        took = wait_for("three replicas are ready", 120, rolled_out)
        quiet(5)
        writes = window.writes()
        children = [each for each in writes if not each.startswith("patch modeltiers/status")]
        print(f"\n  a tier with 3 replicas, ready after {took:.1f} s: {len(children)} child writes, {len(writes) - len(children)} status writes")
        kinds = sorted(each.split(" ")[1] for each in children)
        self.assertEqual(kinds, ["controllerrevisions", "deployments", "networkpolicies", "poddisruptionbudgets", "serviceaccounts", "services"])
        self.assertLessEqual(len(writes) - len(children), 2, writes)
