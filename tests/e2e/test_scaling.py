"""Load that grows fivefold and falls again: an autoscaler follows between floor and ceiling, and no client notices.

The pool's engine is the stand-in with the slots and the slowdown of a llama.cpp server; HorizontalPodAutoscaler, scheduler
and kubelet are real. Meanwhile others scale tiers of their own (`others.py`). The series goes to target/e2e/scaling.json,
drawn in scaling.svg beside it.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kube import apply, wait_for
from others import Others
from plot import draw
from portfolio import NAMESPACE, Case, address, demo, get, kubectl, run
from traffic import Client, rows

POOL = "elastic"
SLOTS = 4
MOST = 4
# Requests a second, for so many seconds.
PHASES = ((1.5, 45), (7.5, 150), (1.5, 150))
QUOTA = 60
STABILIZATION = 45
MANIFEST = f"""
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: {POOL}, namespace: {NAMESPACE}}}
spec:
  class: Small
  owner: team-load
  model: {{name: elastic, contextTokens: 4096, capabilities: [Chat, Streaming, JSONSchema]}}
  pool:
    engine: Custom
    image: smallfirst.local/standin:dev
    modelFrom: {{path: /data}}
    args: [--model, elastic, --slots, "{SLOTS}", --slowdown, "0.1", --first-token, 200ms, --tokens-per-second, "8",
      --requests-per-minute, "0", --tokens-per-minute, "0", --max-concurrent, "0"]
    port: 8080
    resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}
    perReplica: {{concurrency: {SLOTS}}}
    scaling: {{min: 1, max: {MOST}, autoscaler: HorizontalPodAutoscaler, scaleDownStabilization: {STABILIZATION}s}}
    sizing: {{waitTarget: {{within: 2s}}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: scarce, namespace: {NAMESPACE}}}
spec:
  class: Frontier
  owner: team-load
  model: {{name: frontier-large, contextTokens: 4096, capabilities: [Chat, Streaming, JSONSchema]}}
  prices: [{{inputPerMillion: "2.5", outputPerMillion: "10"}}]
  provider:
    api: OpenAI
    baseURL: http://scarce.{NAMESPACE}.svc:8080/v1
    credential: {{secretKeyRef: {{name: frontier-key, key: token}}}}
    account: scarce
    quota: {{requestsPerMinute: {QUOTA}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {{name: elastic-first, namespace: {NAMESPACE}}}
spec:
  owner: team-load
  escalationLimit: {{ratio: "0.5", window: 1m, onExceeded: BestAnswer}}
  steps:
  - name: small
    tierRef: {{name: {POOL}}}
    accept: [{{notMatch: {{regex: transfer_timing}}}}]
  - {{name: large, tierRef: {{name: scarce}}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {{name: load, namespace: {NAMESPACE}}}
spec:
  router: {{replicas: 2}}
  anonymous: {{}}
  workloads:
  - {{name: load, owner: team-load, risk: Medium, match: {{models: [load]}}, pathRef: {{name: elastic-first}}}}
  default: {{reject: {{}}}}
"""


def provider() -> str:
    """A stand-in of its own, with exactly the quota that the tier declares: every 429 is one request too many."""
    text = (demo.HERE / "frontier.yaml").read_text("utf-8").replace("name: frontier,", "name: scarce,")
    text = text.replace("app: frontier", "app: scarce").replace('"1200"', f'"{QUOTA}"')
    # The port of stats is the test's alone.
    return text


@dataclass
class Seen:
    """What was seen each second, and what became of each request."""

    begin: float = field(default_factory=time.monotonic)
    series: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(1):
            tier = get("mt", POOL)["status"]
            autoscaler = get("hpa", selector=f"smallfirst.dev/tier={POOL}")["items"]
            bounds = autoscaler[0]["spec"] if autoscaler else {}
            metrics = [m["external"]["current"] for m in (autoscaler[0].get("status", {}).get("currentMetrics") or []) if "external" in m] if autoscaler else []
            self.series.append(
                {
                    "at": time.monotonic() - self.begin,
                    "replicas": tier.get("replicas", 0),
                    "ready": tier.get("readyReplicas", 0),
                    "floor": bounds.get("minReplicas", 0),
                    "ceiling": bounds.get("maxReplicas", 0),
                    "concurrency": metrics[0].get("averageValue", "") if metrics else "",
                }
            )

    def ask(self, client: Client, row: dict[str, Any]) -> None:
        at = time.monotonic() - self.begin
        reply = client.ask("load", row)
        self.answers.append((at, reply.seconds))
        if reply.error:
            self.failed.append(f"{at:.0f} s: {reply.error}")


def load(seen: Seen, client: Client, seed: int, phases: Iterable[tuple[float, float]] = PHASES) -> None:
    """Requests by chance, whether earlier ones were answered or not."""
    chance, asked, threads = random.Random(seed), rows("intents-frontier.jsonl"), []
    due = time.monotonic()
    for rate, seconds in phases:
        end = due + seconds
        while due < end:
            due += chance.expovariate(rate)
            time.sleep(max(0.0, due - time.monotonic()))
            threads.append(threading.Thread(target=seen.ask, args=(client, chance.choice(asked))))
            threads[-1].start()
    for thread in threads:
        thread.join(90)


def serves(part: str, enabled: bool) -> None:
    """What a cluster's administrator turns on once, so that autoscalers can read the metric: a part of the chart."""
    chart, value = str(demo.ROOT / "charts/smallfirst"), f"{part}.enabled={str(enabled).lower()}"
    run("helm", "upgrade", "smallfirst", chart, "-n", "smallfirst-system", "--reuse-values", "--set", value, "--wait", timeout=150)


class Peak(Case):
    """What is to be seen of a peak, whoever scales."""

    phases = PHASES

    def start(self, manifest: str) -> Client:
        """Makes the provider and the rest, and waits until it can be asked."""
        self.addCleanup(kubectl, "delete", "-f", "-", "--wait=false", stdin=manifest + "---" + provider())
        apply(provider())
        apply(manifest)
        for kind, name in (("mt", POOL), ("mt", "scarce"), ("rp", "load")):
            wait_for(f"{kind} {name} is Ready", 120, lambda kind=kind, name=name: demo.ready(kind, name))
        return Client(f"{address('load')}/v1", "none")

    def peak(self, client: Client, drawn: str) -> None:
        seen, stop = Seen(), threading.Event()
        watcher = threading.Thread(target=seen.watch, args=(stop,))
        watcher.start()
        load(seen, client, 7, self.phases)
        stop.set()
        watcher.join()
        draw(drawn, seen.series, seen.answers, self.phases)
        self.assertEqual(seen.failed, [])

        begin, peak = self.phases[0][1], self.phases[0][1] + self.phases[1][1]
        during = [now for now in seen.series if begin < now["at"] < peak]
        after = seen.series[-1]
        highest = max(now["replicas"] for now in during)
        print(f"\n  {len(seen.answers)} requests; replicas 1, at most {highest}, at the end {after['replicas']}")
        self.assertGreaterEqual(highest, 2, "more was needed")
        self.assertLess(after["replicas"], highest, "and less again")
        for now in seen.series:
            self.assertLessEqual(now["replicas"], MOST, now)
            self.assertLessEqual(now["floor"], now["ceiling"] or MOST, now)
        # Up once and down once: an autoscaler that follows noise turns round more often.
        turns = [b["replicas"] - a["replicas"] for a, b in zip(seen.series, seen.series[1:]) if a["replicas"] != b["replicas"]]
        signs = [turn > 0 for turn in turns]
        self.assertLessEqual(sum(a != b for a, b in zip(signs, signs[1:])), 1, turns)
        stats = json.loads(urllib.request.urlopen(f"http://{self.provider_address()}:8081/stats", timeout=5).read())
        self.assertEqual(stats["overQuota"], 0, stats)
        self.assertGreater(stats["answered"], 0, stats)

    def provider_address(self) -> str:
        return get("pods", selector="app=scarce")["items"][0]["status"]["podIP"]


class Scaling(Peak):
    """In the order of their names: the second looks at what happened during the first."""

    others: Others

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        serves("metricsApi", True)
        cls.addClassCleanup(serves, "metricsApi", False)
        cls.others = Others(POOL)
        cls.addClassCleanup(kubectl, "delete", "-f", "-", "--wait=false", stdin=cls.others.manifest)

    def test_an_autoscaler_follows_a_peak_between_floor_and_ceiling_and_nobody_is_refused(self) -> None:
        self.peak(self.start(MANIFEST), "scaling")

    def test_others_who_scale_a_tier_are_not_fought_for_five_minutes(self) -> None:
        self.others.check(self)
