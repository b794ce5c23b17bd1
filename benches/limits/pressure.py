#!/usr/bin/env python3
"""A frontier's quota is halved under load, halved again, and returns: the order in which workloads give way.

The real operator on a real control plane and two router processes; the models are stand-ins in this process, whose answers
have known log probabilities. The status of the frontier and the routers' metrics are read every second. Held: Low gives way
before Medium, Medium by half of the slack at most, High never and none of it is refused; the measures of the status begin in
their order; nothing swings; and all is as before two minutes after the quota has returned. Prints what was seen, writes
target/bench/pressure.json and pressure.svg, and fails if a bound is missed.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fleet
from fleet import HOST, KEY, ROOT, Fleet, Router
from rig import get, parser

# Requests a second and the quota that they need with the reserve kept free: 372 a minute of nine tenths.
RATES = {"chat": 5.0, "mail": 5.0, "review": 1.0}
QUOTAS = {"whole": 720, "half": 360, "quarter": 180, "returned": 720}
SLACK = 0.3
ORDER = ["ThresholdsLowered", "EscalationLimited", "MovedToPools", "Shed"]
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
kind: EscalationPath
metadata: {{name: up, namespace: ai}}
spec:
  owner: bench
  pressure: {{slack: "{slack}"}}
  escalationLimit: {{ratio: "0.3"}}
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
  clients: [{{name: team, apiKey: {{secretKeyRef: {{name: keys, key: bench}}}}, workloads: [chat, mail, review]}}]
  workloads:
  - {{name: chat, owner: bench, risk: Low, match: {{models: [chat]}}, pathRef: {{name: up}}}}
  - {{name: mail, owner: bench, risk: Medium, match: {{models: [mail]}}, pathRef: {{name: up}}}}
  - {{name: review, owner: bench, risk: High, reserve: "0.2", match: {{models: [review]}}, tierRef: {{name: frontier}}}}
  default: {{reject: {{}}}}
"""


class Models(BaseHTTPRequestHandler):
    """Answers as either model: `small` with the next of the scores."""

    protocol_version, turn, lock = "HTTP/1.1", 0, threading.Lock()

    def do_POST(self) -> None:
        model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
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
    """Asks at steady rates, whatever answers take, and counts outcomes."""

    def __init__(self, routers: list[Router]) -> None:
        self.routers, self.done, self.lock, self.outcomes = routers, threading.Event(), threading.Lock(), {}
        for workload, rate in RATES.items():
            threading.Thread(target=self.ask_at, args=(workload, rate), daemon=True).start()

    def ask_at(self, workload: str, rate: float) -> None:
        begin, asked = time.monotonic(), 0
        while not self.done.wait(max(0.0, begin + asked / rate - time.monotonic())):
            threading.Thread(target=self.ask, args=(workload, self.routers[asked % len(self.routers)]), daemon=True).start()
            asked += 1

    def ask(self, workload: str, router: Router) -> None:
        body = json.dumps({"model": workload, "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]})
        try:
            connection = http.client.HTTPConnection(router.address, timeout=30)
            connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", "authorization": f"Bearer {KEY}"})
            reply = connection.getresponse()
            reply.read()
            outcome = reply.headers.get("x-smallfirst-outcome") or str(reply.status)
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        with self.lock:
            counts = self.outcomes.setdefault(workload, {})
            counts[outcome] = counts.get(outcome, 0) + 1


def lowered(router: Router, workload: str) -> float:
    name = f'smallfirst_router_threshold_lowered{{workload="{workload}",step="small"}} '
    return next(float(line[len(name):]) for line in get(f"http://{router.admin}/metrics").decode().splitlines() if line.startswith(name))


def sample(told: Fleet, routers: list[Router], load: Load, begin: float) -> dict:
    tier = json.loads(told.kube("get", "modeltier", "frontier", "-n", "ai", "-o", "json"))
    quota = tier.get("status", {}).get("quota", {})
    with load.lock:
        outcomes = {workload: dict(counts) for workload, counts in load.outcomes.items()}
    return {
        "at": round(time.monotonic() - begin, 2), "needed": float(quota.get("needed", 0)), "measures": quota.get("measures", []),
        "message": quota.get("message", ""), "outcomes": outcomes,
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
    ]
    for name, at in marks.items():
        parts.append(f'<line x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{height - 40}" stroke="#ccc"/>')
        parts.append(f'<text x="{x(at) + 3:.1f}" y="{height - 22}" font-size="12">quota {name}</text>')
    for second in range(0, int(last) + 1, 60):
        parts.append(f'<text x="{x(second):.1f}" y="{height - 6}" font-size="11" fill="#666">{second} s</text>')
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">{"".join(parts)}</svg>\n'


def judge(samples: list[dict], marks: dict[str, float]) -> list[str]:
    problems = []
    most = {workload: max(s["lowered"][workload] for s in samples) for workload in ("chat", "mail")}
    if any(s["lowered"]["mail"] > 0 and s["lowered"]["chat"] < SLACK for s in samples):
        problems.append("Medium gave way before Low had wholly")
    if not 0 < most["mail"] <= SLACK / 2 or most["chat"] != SLACK:
        problems.append(f"thresholds were lowered by {most}")
    begun: list[str] = []
    for s in samples:
        begun += [measure for measure in s["measures"] if measure not in begun]
    if not begun or begun != sorted(begun, key=ORDER.index):
        problems.append(f"measures began in the order {begun}")
    returned = [s for s in samples if s["at"] > marks["returned"]]
    for workload in ("chat", "mail"):
        values = [s["lowered"][workload] for s in returned]
        if any(b > a for a, b in zip(values, values[1:])):
            problems.append(f"{workload} swings after the quota returned")
        if values[-1] or returned[-1]["measures"]:
            problems.append(f"{workload} still gives way: {values[-1]}, {returned[-1]['measures']}")
    high = samples[-1]["outcomes"]["review"]
    if set(high) != {"accepted"}:
        problems.append(f"High: {high}")
    return problems


def main() -> int:
    flags = parser(__doc__)
    flags.add_argument("--seconds", type=float, default=120, help="time with each quota")
    args = flags.parse_args()
    fleet.alone()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Models)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with ExitStack() as stack:
        text = MANIFESTS.format(host=HOST, port=server.server_port, quota=QUOTAS["whole"], slack=SLACK)
        told = Fleet(stack, args.smallfirst.resolve(), text)
        told.credentials()
        routers = [Router(told, f"front-{number}") for number in range(2)]
        for router in routers:
            router.ready()
        # A new leader lends nothing at first.
        time.sleep(8)
        load = Load(routers)
        samples, marks, begin = [], {}, time.monotonic()
        for name, quota in QUOTAS.items():
            patch = json.dumps({"spec": {"provider": {"quota": {"requestsPerMinute": quota}}}})
            told.kube("patch", "modeltier", "frontier", "-n", "ai", "--type", "merge", "-p", patch)
            marks[name] = time.monotonic() - begin
            while time.monotonic() - begin < marks[name] + args.seconds:
                samples.append(sample(told, routers, load, begin))
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
