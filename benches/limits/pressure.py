#!/usr/bin/env python3
"""A frontier's quota is halved under load, cut twice more, and returns: the order in which workloads give way.

The real operator on a real control plane and two router processes; the models are stand-ins in this process, whose answers
have known log probabilities. There is no kubelet: the replicas that the real autoscaler asks of the pool become endpoints of
its Service here. The statuses of frontier and pool and the routers' metrics are read every second. Held: Low gives way before
Medium, Medium by half of the slack at most, High never and none of it is refused; each cut adds its measures, in their order;
the pool is sized up for what moves to it, and answers that; nothing that can move is refused, and of what can't one in ten at
most before the status says that some is shed; nothing swings; and all is as before when the quota has returned. Prints what was seen, writes target/bench/pressure.json and pressure.svg, and fails
if a bound is missed.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fleet
from fleet import HOST, KEY, ROOT, Fleet, Router
from rig import get, parser

# Requests a second. They need 900 a minute: of `chat` and `mail` half, of the others all. Nine tenths may be used of a quota
# without the floor of a third router, which is a twelfth of it.
RATES = {"chat": 10.0, "mail": 10.0, "review": 2.0, "draft": 2.0, "bulk": 1.0}
SLACK = 0.3
# (a) saves 240 of `chat` and 180 of `mail`, (b) 30 of `mail`, (c) the 120 of `draft`, (d) the 60 of `bulk`.
ORDER = ["ThresholdsLowered", "EscalationLimited", "MovedToPools", "Shed"]
# Quotas a minute, and how many of the measures they need.
QUOTAS = {"whole": (1440, 0), "half": (720, 1), "less": (450, 3), "least": (300, 4), "returned": (1440, 0)}
# Seconds that a model takes, and the addresses of the pool's replicas: an EndpointSlice can't have loopback ones.
SECONDS = {"large": 2.0}
REPLICAS = [f"192.0.2.{number}" for number in range(1, 13)]
# Half of the answers pass the threshold of -0.4; of ten, one each misses it by 0.05, 0.1, 0.15, 0.2 and 0.9. Each comes
# twice: two workloads that ask in turn get the same ones.
SCORES = [score for score in (-0.1, -0.45, -0.1, -0.5, -0.1, -0.55, -0.1, -0.6, -0.1, -1.3) for _ in range(2)]
MANIFESTS = """
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: small, namespace: ai}}
spec:
  class: Small
  owner: bench
  model: {{name: small, contextTokens: 8000, capabilities: [Chat, Logprobs]}}
  prices: [{{inputPerMillion: "1", outputPerMillion: "2"}}]
  provider:
    api: OpenAI
    baseURL: http://{host}:{port}/v1
    account: small
    credential: {{secretKeyRef: {{name: keys, key: bench}}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: frontier, namespace: ai}}
spec:
  class: Frontier
  owner: bench
  model: {{name: frontier, contextTokens: 8000}}
  prices: [{{inputPerMillion: "10", outputPerMillion: "20"}}]
  provider:
    api: OpenAI
    baseURL: http://{host}:{port}/v1
    account: frontier
    credential: {{secretKeyRef: {{name: keys, key: bench}}}}
    quota: {{requestsPerMinute: {quota}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: large, namespace: ai}}
spec:
  class: Large
  owner: bench
  model: {{name: large, contextTokens: 8000}}
  pool:
    engine: Custom
    image: none.invalid/large
    modelFrom: {{path: /models}}
    port: 8080
    resources: {{requests: {{cpu: 10m, memory: 16Mi}}}}
    perReplica: {{concurrency: 1}}
    scaling: {{min: 1, max: {replicas}, autoscaler: HorizontalPodAutoscaler, scaleDownStabilization: 20s}}
    sizing: {{waitTarget: {{within: 2s}}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {{name: down, namespace: ai}}
spec:
  owner: bench
  failover: {{direction: UpThenDown}}
  steps:
  - {{name: frontier, tierRef: {{name: frontier}}}}
  - {{name: large, tierRef: {{name: large}}, entry: FailoverOnly}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {{name: up, namespace: ai}}
spec:
  owner: bench
  pressure: {{slack: "{slack}"}}
  escalationLimit: {{ratio: "0.15"}}
  steps:
  - name: small
    tierRef: {{name: small}}
    accept: [{{confidence: {{measure: MeanLogprob, atLeast: "-0.4"}}}}]
  - {{name: frontier, tierRef: {{name: frontier}}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {{name: front, namespace: ai}}
spec:
  router: {{replicas: 2}}
  clients: [{{name: team, apiKey: {{secretKeyRef: {{name: keys, key: bench}}}}, workloads: [chat, mail, review, draft, bulk]}}]
  workloads:
  - {{name: chat, owner: bench, risk: Low, match: {{models: [chat]}}, pathRef: {{name: up}}}}
  - {{name: mail, owner: bench, risk: Medium, match: {{models: [mail]}}, pathRef: {{name: up}}}}
  - {{name: review, owner: bench, risk: High, reserve: "0.2", match: {{models: [review]}}, tierRef: {{name: frontier}}}}
  - {{name: draft, owner: bench, risk: Low, match: {{models: [draft]}}, pathRef: {{name: down}}}}
  - {{name: bulk, owner: bench, risk: Low, match: {{models: [bulk]}}, tierRef: {{name: frontier}}}}
  default: {{reject: {{}}}}
"""


class Models(BaseHTTPRequestHandler):
    """Answers as any of the models: `small` with the next of the scores."""

    protocol_version, turn, lock = "HTTP/1.1", 0, threading.Lock()

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        time.sleep(SECONDS.get(model, 0.0))
        choice = {"index": 0, "message": {"role": "assistant", "content": "refund"}, "finish_reason": "stop"}
        if model == "small":
            with Models.lock:
                score, Models.turn = SCORES[Models.turn % len(SCORES)], Models.turn + 1
            choice["logprobs"] = {"content": [{"token": "refund", "logprob": score, "top_logprobs": []}]}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        reply = {"id": "a", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Load:
    """Asks by chance at steady rates, whatever answers take, and counts outcomes."""

    def __init__(self, routers: list[Router]) -> None:
        self.routers, self.done, self.lock, self.outcomes = routers, threading.Event(), threading.Lock(), {}
        for workload, rate in RATES.items():
            threading.Thread(target=self.ask_at, args=(workload, rate), daemon=True).start()

    def ask_at(self, workload: str, rate: float) -> None:
        chance, due = random.Random(workload), time.monotonic()
        while not self.done.wait(max(0.0, due - time.monotonic())):
            threading.Thread(target=self.ask, args=(workload, chance.choice(self.routers)), daemon=True).start()
            due += chance.expovariate(rate)

    def ask(self, workload: str, router: Router) -> None:
        body = json.dumps({"model": workload, "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]})
        try:
            connection = http.client.HTTPConnection(router.address, timeout=30)
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
            reply = connection.getresponse()
            reply.read()
            outcome = reply.headers.get("x-smallfirst-outcome", "") if reply.status == 200 else str(reply.status)
            if reply.headers.get("x-smallfirst-tier") == "large":
                outcome += " by large"
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        with self.lock:
            counts = self.outcomes.setdefault(workload, {})
            counts[outcome] = counts.get(outcome, 0) + 1


class Pool:
    """What a kubelet would do of the pool: a ready endpoint for each replica that its Deployment is to have."""

    SLICE = {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "large-bench", "namespace": "ai", "labels": {"kubernetes.io/service-name": "large-pool"}},
    }  # fmt: skip

    def __init__(self, told: Fleet, port: int) -> None:
        self.told, self.port, self.replicas = told, port, 0
        for address in REPLICAS:
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)

    def follow(self) -> None:
        replicas = json.loads(self.told.kube("get", "deployment", "large-pool", "-n", "ai", "-o", "json"))["spec"]["replicas"]
        if replicas != self.replicas:
            endpoints = [{"addresses": [address]} for address in REPLICAS[:replicas]]
            ports = [{"name": "http", "port": self.port}]
            self.told.kube("apply", "-f", "-", stdin=json.dumps(self.SLICE | {"endpoints": endpoints, "ports": ports}))
            self.replicas = replicas


def lowered(router: Router, workload: str) -> float:
    name = f'smallfirst_router_threshold_lowered{{workload="{workload}",step="small"}} '
    return next(float(line[len(name):]) for line in get(f"http://{router.admin}/metrics").decode().splitlines() if line.startswith(name))


def sample(told: Fleet, routers: list[Router], load: Load, pool: Pool, begin: float) -> dict:
    tiers = json.loads(told.kube("get", "modeltiers", "frontier", "large", "-n", "ai", "-o", "json"))["items"]
    quota, sizing = (tier.get("status", {}).get(part, {}) for tier, part in zip(tiers, ("quota", "sizing")))
    pool.follow()
    with load.lock:
        outcomes = {workload: dict(counts) for workload, counts in load.outcomes.items()}
    return {
        "at": round(time.monotonic() - begin, 2), "needed": float(quota.get("needed", 0)), "measures": quota.get("measures", []),
        "message": quota.get("message", ""), "outcomes": outcomes,
        "floor": sizing.get("floor", 0), "sizing": sizing.get("message", ""), "replicas": pool.replicas,
        "lowered": {workload: max(lowered(router, workload) for router in routers) for workload in ("chat", "mail")},
    }  # fmt: skip


def plot(samples: list[dict], marks: dict[str, float]) -> str:
    """What is needed of the quota, and by how much thresholds are lowered, over time."""
    width, height, left, top = 900, 420, 60, 30
    last = samples[-1]["at"]
    x = lambda at: left + (width - left - 20) * at / last
    def line(values: list[float], most: float, colour: str, name: str, row: int) -> str:
        y = lambda value: top + (height - top - 40) * (1 - value / most)
        points = " ".join(f"{x(s['at']):.1f},{y(value):.1f}" for s, value in zip(samples, values))
        label = f'<text x="{width - 250}" y="{top + 16 * row}" fill="{colour}" font-size="12">{name} (top: {most:.2f})</text>'
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>{label}'
    needed = [s["needed"] for s in samples]
    parts = [
        line(needed, max(2.0, *needed), "#888", "needed of the quota, status", 1),
        line([s["lowered"]["chat"] for s in samples], SLACK * 1.2, "#c33", "Low: threshold lowered, routers", 2),
        line([s["lowered"]["mail"] for s in samples], SLACK * 1.2, "#36c", "Medium: threshold lowered, routers", 3),
        line([s["floor"] for s in samples], len(REPLICAS), "#393", "floor of the pool, status", 4),
        line([s["replicas"] for s in samples], len(REPLICAS) * 1.02, "#963", "replicas of the pool", 5),
    ]
    for name, at in marks.items():
        parts.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{height - 40}" stroke="#ccc"/>')
        parts.append(f'<text x="{x(at) + 3:.1f}" y="{height - 22}" font-size="12">quota {name}</text>')
    for second in range(0, int(last) + 1, 60):
        parts.append(f'<text x="{x(second):.1f}" y="{height - 6}" font-size="11" fill="#666">{second} s</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">{"".join(parts)}</svg>\n'


def became(samples: list[dict], workload: str, begin: float, end: float) -> dict[str, int]:
    """What became of a workload's requests in a time."""
    within = [s["outcomes"].get(workload, {}) for s in samples if begin <= s["at"] <= end]
    return {outcome: count for outcome in within[-1] if (count := within[-1][outcome] - within[0].get(outcome, 0))}


def part(outcomes: dict[str, int], outcome: str) -> float:
    return round(outcomes.get(outcome, 0) / sum(outcomes.values()), 3)


def judge(samples: list[dict], marks: dict[str, float]) -> list[str]:
    problems = []
    most = {workload: max(s["lowered"][workload] for s in samples) for workload in ("chat", "mail")}
    if any(s["lowered"]["mail"] > 0 and s["lowered"]["chat"] < SLACK for s in samples):
        problems.append("Medium gave way before Low had wholly")
    if not 0 < most["mail"] <= SLACK / 2 or most["chat"] != SLACK:
        problems.append(f"thresholds were lowered by {most}")
    ends = dict(zip(marks, [*list(marks.values())[1:], samples[-1]["at"]]))
    for name, (_, measures) in QUOTAS.items():
        found = [s["measures"] for s in samples if marks[name] <= s["at"] <= ends[name]]
        if found[-1] != ORDER[:measures]:
            problems.append(f"{name}: {found[-1]}, not {ORDER[:measures]}")
        if name != "returned" and any(len(b) < len(a) for a, b in zip(found, found[1:])):
            problems.append(f"{name}: measures came and went")
    # What was needed last is done for another minute, and sizing looks every ten seconds.
    settled = {name: min(marks[name] + 75, ends[name] - 30) for name in QUOTAS}
    moved, shed = ({name: part(became(samples, workload, settled[name], ends[name]), outcome) for name in QUOTAS}
                   for workload, outcome in (("draft", "accepted by large"), ("bulk", "429")))  # fmt: skip
    print(f"moved to the pool: {moved}; refused: {shed}")
    if max(moved["whole"], moved["returned"], shed["whole"], shed["half"], shed["returned"]) > 0.05:
        problems.append("moved or refused though it was not necessary")
    if not moved["half"] < moved["less"] < moved["least"] or shed["less"] > 0.1 or shed["least"] < 0.1:
        problems.append("refused where it could have been moved")
    for workload in ("chat", "mail", "draft"):
        if refused := {outcome for outcome in samples[-1]["outcomes"][workload] if outcome.isdigit()}:
            problems.append(f"{workload} was refused, though it had an answer: {refused}")
    floors = {name: [s["floor"] for s in samples if marks[name] <= s["at"] <= ends[name]] for name in QUOTAS}
    if not floors["half"][-1] < floors["less"][-1] <= floors["least"][-1] or min(s["replicas"] - s["floor"] for s in samples[-5:]) < 0:
        problems.append(f"the pool's floor: {floors}")
    returned = [s for s in samples if s["at"] > marks["returned"]]
    values = {workload: [s["lowered"][workload] for s in returned] for workload in ("chat", "mail")} | {"the floor": floors["returned"]}
    for name, each in values.items():
        if any(b > a for a, b in zip(each, each[1:])):
            problems.append(f"{name} swings after the quota returned")
        if each[-1] != samples[0]["lowered"].get(name, samples[0]["floor"]):
            problems.append(f"{name} is not as before: {each[-1]}")
    high = samples[-1]["outcomes"]["review"]
    if set(high) != {"accepted"}:
        problems.append(f"High: {high}")
    return problems


def main() -> int:
    flags = parser(__doc__)
    flags.add_argument("--seconds", type=float, default=120, help="time with each quota, twice as long when it has returned")
    args = flags.parse_args()
    fleet.alone()
    # In a network of its own: nobody else is there.
    server = ThreadingHTTPServer(("", 0), Models)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with ExitStack() as stack:
        text = MANIFESTS.format(host=HOST, port=server.server_port, quota=QUOTAS["whole"][0], slack=SLACK, replicas=len(REPLICAS))
        told = Fleet(stack, args.smallfirst.resolve(), text)
        told.credentials()
        routers = [Router(told, f"front-{number}") for number in range(2)]
        for router in routers:
            router.ready()
        # A new leader lends nothing at first.
        time.sleep(8)
        pool = Pool(told, server.server_port)
        load = Load(routers)
        samples, marks, begin = [], {}, time.monotonic()
        for name, (quota, _) in QUOTAS.items():
            patch = json.dumps({"spec": {"provider": {"quota": {"requestsPerMinute": quota}}}})
            told.kube("patch", "modeltier", "frontier", "-n", "ai", "--type", "merge", "-p", patch)
            marks[name] = time.monotonic() - begin
            seconds = args.seconds * (2 if name == "returned" else 1)
            while time.monotonic() - begin < marks[name] + seconds:
                samples.append(sample(told, routers, load, pool, begin))
                time.sleep(1)
            print(f"{name}, {quota} a minute: {json.dumps(samples[-1])}", flush=True)
        load.done.set()
    problems = judge(samples, marks)
    folder = ROOT / "target" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pressure.json").write_text(json.dumps({"samples": samples, "marks": marks, "problems": problems}, indent=1) + "\n")
    (folder / "pressure.svg").write_text(plot(samples, marks))
    print("problems:", problems or "none")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
