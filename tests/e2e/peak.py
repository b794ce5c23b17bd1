"""A pool of an engine with a service curve, load that grows fivefold and falls again, and what was seen meanwhile.

The engine is the stand-in with the slots and the slowdown of a llama.cpp server; autoscaler, scheduler and kubelet are real.
"""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import follows
from kube import Failure, apply, pod_ips, wait_for
from plot import FOLDER, draw
from portfolio import NAMESPACE, Case, address, demo, get, kubectl, run
from traffic import Client, rows

POOL = "elastic"
SLOTS = 4
MOST = 4
# Requests a second, for so many seconds.
PHASES = ((1.5, 45), (7.5, 150), (1.5, 150))
QUOTA = 60
STABILIZATION = 45


def frontier(name: str) -> str:
    """A tier at a provider that is a stand-in of that name, to which more of `provider` can be added."""
    return f"""apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  class: Frontier
  owner: team-load
  model: {{name: frontier-large, contextTokens: 4096, capabilities: [Chat, Streaming, JSONSchema]}}
  prices: [{{inputPerMillion: "2.5", outputPerMillion: "10"}}]
  provider:
    api: OpenAI
    baseURL: http://{name}.{NAMESPACE}.svc:8080/v1
    credential: {{secretKeyRef: {{name: frontier-key, key: token}}}}
    account: {name}
"""


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
{frontier("scarce")}    quota: {{requestsPerMinute: {QUOTA}}}
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
    return text


def provider_address() -> str:
    return pod_ips("app=scarce")[0]


def stats(pod: str) -> dict[str, Any]:
    """What a stand-in counts, from its second port, which is for tests. Nothing: it starts, stops, or is none."""
    try:
        return json.loads(urllib.request.urlopen(f"http://{pod}:8081/stats", timeout=2).read())
    except OSError:
        return {}


def answered_now(pod: str) -> int | None:
    """Requests that a stand-in answers at this moment, of its slots. `None`: it does not say."""
    counts = stats(pod)
    return min(counts["running"], SLOTS) if counts else None


@dataclass
class Seen:
    """What was seen each second, and what became of each request."""

    # Requests that a pod of the pool answers at this moment.
    answers_now: Callable[[str], int | None] = answered_now
    begin: float = field(default_factory=time.monotonic)
    provider: str = field(default_factory=provider_address)
    series: list[dict[str, Any]] = field(default_factory=list)
    answers: list[tuple[float, float]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    # Requests that are not answered yet.
    open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(1):
            try:
                self.series.append(self.look())
            except (Failure, OSError) as problem:
                # A second without a row; `follows` says when they are many.
                print(f"  not seen: {problem}", flush=True)

    def look(self) -> dict[str, Any]:
        at = time.monotonic() - self.begin
        found = get("hpa,pods,deployments", selector=f"smallfirst.dev/tier={POOL}")["items"]
        kinds = {each["kind"]: each for each in found}
        # The tier says it too, but up to half a minute later.
        deployment, autoscaler = kinds.get("Deployment", {}), kinds.get("HorizontalPodAutoscaler", {})
        has, bounds = deployment.get("status", {}), autoscaler.get("spec", {})
        return {
            "at": at,
            "replicas": has.get("replicas", 0),
            "ready": has.get("readyReplicas", 0),
            "floor": bounds.get("minReplicas", 0),
            "ceiling": bounds.get("maxReplicas", 0),
            "concurrency": read(autoscaler),
            "queue": self.queue([each["status"]["podIP"] for each in found if each["kind"] == "Pod" and "podIP" in each.get("status", {})]),
        }

    def queue(self, pods: list[str]) -> int | None:
        """Requests that nobody works on, wherever they wait. `None`: no engine says what it works on."""
        of_pool = [number for pod in pods if (number := self.answers_now(pod)) is not None]
        if not of_pool:
            return None
        return max(0, self.open - sum(of_pool) - stats(self.provider).get("running", 0))

    def ask(self, client: Client, row: dict[str, Any]) -> None:
        at = time.monotonic() - self.begin
        with self.lock:
            self.open += 1
        reply = client.ask("load", row)
        with self.lock:
            self.open -= 1
        self.answers.append((at, reply.seconds))
        if reply.error:
            self.failed.append(f"{at:.0f} s: {reply.error}")


def read(autoscaler: dict[str, Any]) -> str:
    """What an autoscaler has read of its metric, of a replica; empty: nothing."""
    metrics = autoscaler.get("status", {}).get("currentMetrics") or []
    return next((each["external"]["current"].get("averageValue", "") for each in metrics if "external" in each), "")


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
    answers_now = staticmethod(answered_now)

    def start(self, manifest: str) -> Client:
        """Makes the provider and the rest, and waits until it can be asked."""
        self.addCleanup(kubectl, "delete", "-f", "-", "--wait=false", stdin=manifest + "---" + provider())
        apply(provider())
        apply(manifest)
        for kind, name in (("mt", POOL), ("mt", "scarce"), ("rp", "load")):
            wait_for(f"{kind} {name} is Ready", 120, lambda kind=kind, name=name: demo.ready(kind, name))
        kubectl("rollout", "status", "-n", NAMESPACE, "deployment/scarce", "--timeout=60s")
        return Client(f"{address('load')}/v1", "none")

    def peak(self, client: Client, drawn: str, folder: Path = FOLDER) -> Seen:
        seen, stop = Seen(self.answers_now), threading.Event()
        watcher = threading.Thread(target=seen.watch, args=(stop,))
        watcher.start()
        load(seen, client, 7, self.phases)
        stop.set()
        watcher.join()
        draw(drawn, seen.series, seen.answers, self.phases, folder)
        highest, last = max(now["replicas"] for now in seen.series), seen.series[-1]["replicas"]
        print(f"\n  {len(seen.answers)} requests; at most {highest} replicas, at the end {last}; {len(seen.failed)} failed")
        print(f"  the provider: {stats(provider_address())}")
        return seen

    def followed(self, seen: Seen) -> None:
        self.none_failed(seen)
        self.assertEqual(follows.problems(seen.series, self.phases, MOST), [])
        self.none_over_quota()

    def none_failed(self, seen: Seen) -> None:
        self.assertEqual(seen.failed, [])
        self.assertEqual(seen.open, 0, "requests that were never answered")

    def none_over_quota(self) -> None:
        counts = stats(provider_address())
        self.assertEqual(counts.get("overQuota"), 0, counts)
        self.assertGreater(counts["answered"], 0, counts)
