"""Others who scale a tier by its `/scale`, for as long as somebody else's load takes: an autoscaler of the user's own, and
`kubectl scale`. The audit log says whether the operator ever wrote against them."""

from __future__ import annotations

import time
from collections import Counter
from unittest import TestCase

from audit import Window, against
from kube import apply, get, wait_for
from portfolio import NAMESPACE, demo, kubectl

# How long they must not have been fought.
LONG_ENOUGH = 300
AUTOSCALED, BY_HAND = "theirs", "by-hand"


def tier(name: str, scaling: str) -> str:
    return f"""
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  class: Small
  owner: team-load
  model: {{name: {name}, contextTokens: 4096}}
  pool:
    engine: Custom
    image: smallfirst.local/standin:dev
    modelFrom: {{path: /data}}
    args: [--model, {name}]
    port: 8080
    resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}
{scaling}
---"""


def autoscaler(of: str) -> str:
    """The user's own: it follows how much there is to do at another tier, so that load moves it too."""
    return f"""
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: mine, namespace: {NAMESPACE}}}
spec:
  scaleTargetRef: {{apiVersion: smallfirst.dev/v1alpha1, kind: ModelTier, name: {AUTOSCALED}}}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - type: External
    external:
      metric: {{name: smallfirst_tier_concurrency, selector: {{matchLabels: {{smallfirst.dev/tier: {of}}}}}}}
      target: {{type: AverageValue, averageValue: "4"}}
"""


class Others:
    """They scale two tiers from now on. `of`: the tier whose load moves the autoscaler."""

    def __init__(self, of: str) -> None:
        tiers = tier(AUTOSCALED, "    scaling: {max: 3, autoscaler: External}") + tier(BY_HAND, "")
        self.manifest = tiers + autoscaler(of)
        apply(tiers)
        for name in (AUTOSCALED, BY_HAND):
            wait_for(f"mt {name} is Ready", 60, lambda name=name: demo.ready("mt", name))
        self.window, self.begin = Window(), time.monotonic()
        apply(autoscaler(of))
        self.scale(2)

    def scale(self, replicas: int) -> None:
        kubectl("scale", "modeltier", BY_HAND, "-n", NAMESPACE, f"--replicas={replicas}")
        wait_for(f"{replicas} replicas", 20, lambda: self.replicas(BY_HAND) == replicas)

    def replicas(self, name: str) -> int:
        return get("deployment", f"{name}-pool")["spec"]["replicas"]

    def check(self, test: TestCase) -> None:
        """After long enough, which the caller should have spent otherwise."""
        time.sleep(max(0.0, self.begin + LONG_ENOUGH - time.monotonic()))
        test.assertEqual(self.replicas(BY_HAND), 2, "what kubectl asked for stays")
        self.scale(1)
        for name in (AUTOSCALED, BY_HAND):
            history = self.window.history(NAMESPACE, ("modeltiers", name), ("deployments", f"{name}-pool"))
            asked = [write for write in history if write.resource == "modeltiers"]
            written = [write for write in history if write.resource == "deployments"]
            by = Counter(f"{write.agent} to {write.resource}" for write in history)
            print(f"\n  {name}: in {time.monotonic() - self.begin:.0f} s {'; '.join(f'{count} of {who}' for who, count in by.items())}")
            print(f"  {name}: replicas asked for {[write.replicas for write in asked]}, written {[write.replicas for write in written]}")
            test.assertEqual(against(history), [], "nobody had asked for it")
            test.assertEqual([write for write in asked if write.is_ours], [], "the operator asks for nothing")
            test.assertEqual([write for write in written if not write.is_ours], [], "others leave the Deployment alone")
            # Up and down again, by both.
            test.assertGreaterEqual(len(asked), 2, "they were to move it")
            test.assertLessEqual(len(written), len(asked), history)
            test.assertEqual(self.replicas(name), asked[-1].replicas)
