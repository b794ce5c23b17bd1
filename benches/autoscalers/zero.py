"""A pool is scaled to zero twenty times: how long the first request then takes, and whether any is lost.

`make scale-to-zero` runs it on a cluster of its own. The figures go to target/e2e/zero.json.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from kube import apply, wait_for
from peak import frontier, serves
from plot import FOLDER
from portfolio import NAMESPACE, Case, address, demo, get, kubectl
from traffic import Client, Reply, rows

CYCLES = 20
POOL = "sleepy"
# The shortest `idleAfter` that there is.
IDLE = 10
# What a first answer may take: with Skip so many times the next tier's, with Wait so much longer than a pod takes to start.
SKIP, WAIT = 1.2, 1.0
# Without a quota, and all answers of the same pace.
UNBOUNDED = '--requests-per-minute, "0", --tokens-per-minute, "0", --max-concurrent, "0", --jitter, "0"'
MANIFEST = f"""
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: {POOL}, namespace: {NAMESPACE}}}
spec:
  class: Small
  owner: team-load
  model: {{name: {POOL}, contextTokens: 4096, capabilities: [Chat, Streaming, JSONSchema]}}
  pool:
    engine: Custom
    image: smallfirst.local/standin:dev
    modelFrom: {{path: /data}}
    args: [--model, {POOL}, --first-token, 5ms, --tokens-per-second, "0", {UNBOUNDED}]
    port: 8080
    resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}
    perReplica: {{concurrency: 4}}
    scaling: {{min: 0, max: 2, autoscaler: HorizontalPodAutoscaler, idleAfter: {IDLE}s}}
---
{frontier("ample")}---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {{name: skips, namespace: {NAMESPACE}}}
spec:
  owner: team-load
  coldTier: Skip
  steps: [{{name: {POOL}, tierRef: {{name: {POOL}}}}}, {{name: ample, tierRef: {{name: ample}}}}]
---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {{name: waits, namespace: {NAMESPACE}}}
spec:
  owner: team-load
  coldTier: Wait
  steps: [{{name: {POOL}, tierRef: {{name: {POOL}}}}}, {{name: ample, tierRef: {{name: ample}}}}]
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {{name: zero, namespace: {NAMESPACE}}}
spec:
  router: {{replicas: 2}}
  anonymous: {{}}
  workloads:
  - {{name: skip, owner: team-load, risk: Medium, match: {{models: [skip]}}, pathRef: {{name: skips}}}}
  - {{name: wait, owner: team-load, risk: Medium, match: {{models: [wait]}}, pathRef: {{name: waits}}}}
  - {{name: next, owner: team-load, risk: Medium, match: {{models: [next]}}, tierRef: {{name: ample}}}}
  default: {{reject: {{}}}}
"""


def provider() -> str:
    text = (demo.HERE / "frontier.yaml").read_text("utf-8").replace("name: frontier,", "name: ample,").replace("app: frontier", "app: ample")
    return demo.replace(text, '--requests-per-minute, "1200", --tokens-per-minute, "600000", --max-concurrent, "8"', UNBOUNDED)


class Starts:
    """When each pod of the pool was made and when it was ready, as this machine sees it."""

    def __init__(self) -> None:
        self.made: dict[str, float] = {}
        self.ready: dict[str, float] = {}

    def __enter__(self) -> Starts:
        line = '{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\\n"}'
        command = ["kubectl", "get", "pods", "-n", NAMESPACE, "-l", f"smallfirst.dev/tier={POOL}", "--watch", "-o", f"jsonpath={line}"]
        self.kubectl = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kubectl.terminate()
        self.thread.join()

    def read(self) -> None:
        for line in self.kubectl.stdout or ():
            name, _, ready = line.strip().partition(" ")
            self.made.setdefault(name, time.monotonic())
            if ready == "True":
                self.ready.setdefault(name, time.monotonic())

    def first(self, since: float) -> tuple[float, float] | None:
        """How long after a moment the first pod was made, and how long that took to be ready."""
        made = sorted((at, name) for name, at in self.made.items() if at >= since and name in self.ready)
        return (made[0][0] - since, self.ready[made[0][1]] - made[0][0]) if made else None


@dataclass
class Cycle:
    """One sleep: how long the first request after it took, when a pod was made for it and how long that took to start."""

    mode: str
    first: float
    steps: str
    made: float
    start: float


class Sleeper(Case):
    """A pool that sleeps and is woken, whoever scales it."""

    cycles = CYCLES
    # How long it stays after the last request.
    awake = IDLE

    def start(self, manifest: str) -> None:
        apply(provider())
        apply(manifest)
        self.addCleanup(kubectl, "delete", "-f", "-", "--wait=false", stdin=manifest + "---" + provider())
        for kind, name in (("mt", POOL), ("mt", "ample"), ("rp", "zero")):
            wait_for(f"{kind} {name} is Ready", 120, lambda kind=kind, name=name: demo.ready(kind, name))
        kubectl("rollout", "status", "-n", NAMESPACE, "deployment/ample", "--timeout=60s")
        self.asker = Client(f"{address('zero')}/v1", "none")
        self.row = rows("intents-frontier.jsonl")[0]
        self.failed: list[str] = []
        self.asked = 0

    def send(self, model: str) -> Reply:
        reply = self.asker.ask(model, self.row)
        self.asked += 1
        if reply.error:
            self.failed.append(f"{model}: {reply.error}")
        return reply

    def asleep(self, number: int) -> None:
        """What else happens in a cycle while it sleeps."""

    def cycle(self, number: int, starts: Starts, chance: random.Random) -> Cycle:
        mode = ("skip", "wait")[number % 2]
        wait_for("the pool sleeps", 120 + self.awake, lambda: get("deployment", f"{POOL}-pool")["spec"]["replicas"] == 0)
        wait_for("its pods are gone", 60, lambda: not get("pods", selector=f"smallfirst.dev/tier={POOL}")["items"])
        self.asleep(number)
        begin = time.monotonic()
        first = self.send(mode)
        # It wakes under load, and all are answered by somebody.
        served = 0
        while served < 5 and time.monotonic() - begin < 60:
            time.sleep(0.3)
            served += self.send(mode).steps.startswith(f"{POOL}:accepted")
        found = starts.first(begin)
        self.assertIsNotNone(found, "no pod was made")
        # At about the moment at which it is put to sleep.
        time.sleep(self.awake * chance.uniform(0.8, 1.3))
        self.send(mode)
        made, start = found or (0.0, 0.0)
        return Cycle(mode, first.seconds, first.steps, made, start)

    def sleeps(self, file: Path) -> list[Cycle]:
        chance = random.Random(7)
        usual = [self.send("next").seconds for _ in range(10)]
        with Starts() as starts:
            cycles = []
            for number in range(self.cycles):
                cycles.append(self.cycle(number, starts, chance))
                usual += [self.send("next").seconds for _ in range(2)]
                print(f"  {cycles[-1]}", flush=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        figures = {"next": usual, "cycles": [asdict(cycle) for cycle in cycles], "asked": self.asked, "failed": self.failed}
        file.write_text(json.dumps(figures))
        self.next = statistics.median(usual)
        return cycles

    def slept(self, cycles: list[Cycle]) -> None:
        skipped = [cycle.first / self.next for cycle in cycles if cycle.mode == "skip"]
        waited = [cycle.first - cycle.start for cycle in cycles if cycle.mode == "wait"]
        print(f"  {self.asked} requests, {len(self.failed)} failed; {len(cycles)} cycles; the next tier alone takes {self.next:.2f} s")
        print(f"  Skip: a first answer takes {statistics.median(skipped):.2f} times that, at most {max(skipped):.2f}")
        starting = statistics.median(cycle.start for cycle in cycles)
        print(f"  Wait: {statistics.median(waited):.2f} s longer than the pod's start ({starting:.1f} s), at most {max(waited):.2f} s")
        self.assertEqual(self.failed, [])
        for cycle in cycles:
            served = "ample:accepted" if cycle.mode == "skip" else f"{POOL}:accepted"
            self.assertIn(served, cycle.steps, "it was cold, and answered by who was to answer")
        self.assertLessEqual(max(skipped), SKIP)
        self.assertLessEqual(max(waited), WAIT)


class Zero(Sleeper):
    def test_a_first_request_hardly_feels_it_and_none_is_lost(self) -> None:
        serves("metricsApi", True)
        self.addCleanup(serves, "metricsApi", False)
        self.start(MANIFEST)
        self.slept(self.sleeps(FOLDER / "zero.json"))
