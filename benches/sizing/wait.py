#!/usr/bin/env python3
"""Compare the wait for a slot that `smallfirst plan` predicts with the one at a real llama.cpp server.

    benches/sizing/wait.py --smallfirst target/release/smallfirst [--requests 1000] [--recorded FILE]

A server with 1, 2 and 4 slots gets requests by chance (Poisson) at three rates. From those calls, counted as a router counts
them, the operator's own estimator finds S(b), as it does of live traffic; and the server's own timings say when it began
with each: what is before that is the wait. Half an hour; its end is target/bench/sizing-wait.json, and the calls themselves are
beside it, from which predictions can be made again (`--recorded`). Exit code 1: a prediction is further off than 25 %.

A p95 of a thousand waits is much a matter of chance, because a queue remembers: at a load of 0.8 its relaxation time is 90
services. So usual arrivals are taken: of many, the first ones by which an ideal server, as fast as this one was a moment before,
has the p95 that it has in a long run. They also go through an ideal server with the S(b) that was found; by what its p95 still
differs from that of a long run, the luck of these arrivals, what was measured is divided (a control variate). Both are told.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "benches/faults"))
import rig  # noqa: E402

SLOTS = (1, 2, 4)
# Parts of the most that a server can do.
LOADS = (0.6, 0.7, 0.8)
BOUND = 0.25
PERCENTILE = 0.95
# Arrivals of the long run.
LONG = 200_000
# How near its p95 that of usual arrivals is, and of how many they are taken.
USUAL, DRAWN = 0.05, 200
# Tokens of an answer, on average. An engine takes a request in between two of its steps, a token each: the shorter answers are,
# the more of what is measured is not the wait for a slot, but for the end of a step.
OUTPUT = 8
MANIFESTS = """
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {name: compact, namespace: ai}
spec:
  class: Small
  owner: bench
  model: {name: m, contextTokens: 4096}
  pool:
    engine: LlamaCpp
    modelFrom: {path: /model.gguf}
    replicas: 1
    perReplica: {concurrency: %d}
    sizing: {waitTarget: {within: 1s, percentile: "0.95"}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: bench, namespace: ai}
spec:
  anonymous: {}
  workloads: [{name: words, owner: bench, match: {models: [words]}, tierRef: {name: compact}}]
  default: {reject: {}}
"""


@dataclass(frozen=True)
class Call:
    input: int
    output: int
    # When it was sent and when its answer ended, and how long the server worked on it.
    begin: float
    end: float
    worked: float

    @property
    def wait(self) -> float:
        return max(0.0, self.end - self.begin - self.worked)


@dataclass(frozen=True)
class Recording:
    slots: int
    # A part of what the server did with every slot busy.
    load: float
    # When requests came, and the tokens that they asked for.
    coming: list[tuple[float, int]]
    rate: float
    calls: list[Call]


class Engine:
    def __init__(self, stack: ExitStack, slots: int) -> None:
        self.port = rig.port()
        # One thread on a core of its own: what asks it has the others.
        serve = ["taskset", "--cpu-list", str(max(os.sched_getaffinity(0))), ROOT / "tests/engine/serve"]
        command = [*serve, "--port", str(self.port), "--parallel", str(slots), "--threads", "1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.wait)
        stack.callback(process.kill)
        rig.until(lambda: bool(rig.get(f"http://127.0.0.1:{self.port}/health")), "an engine", 120)
        self.calls: list[Call] = []

    def ask(self, output: int) -> None:
        asked = {"prompt": "The river", "max_tokens": output, "ignore_eos": True, "cache_prompt": False, "temperature": 0}
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(asked), {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        end = time.monotonic()
        connection.close()
        usage, timings = answer["usage"], answer["timings"]
        worked = (timings["prompt_ms"] + timings["predicted_ms"]) / 1000
        self.calls.append(Call(usage["prompt_tokens"], usage["completion_tokens"], begin, end, worked))

    def taken(self) -> list[Call]:
        """The calls since the last time: none may be under way."""
        calls, self.calls = self.calls, []
        return calls


def length(chance: random.Random) -> int:
    """Tokens of an answer: geometric, at least one."""
    return 1 + int(math.log(1 - chance.random()) / math.log(1 - 1 / OUTPUT))


def full(engine: Engine, slots: int, calls: int = 60) -> float:
    """Requests a second with every slot busy, and nobody waiting: a client a slot, each asking again after an answer."""

    def client(number: int) -> None:
        chance = random.Random(number)
        for _ in range(calls):
            engine.ask(length(chance))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(slots)]
    begin = time.monotonic()
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return len(engine.taken()) / (time.monotonic() - begin)


def arrivals(rate: float, count: int, seed: int) -> list[tuple[float, int]]:
    """When requests come, and how many tokens they ask for: exponential times between them."""
    chance, at, made = random.Random(seed), 0.0, []
    for _ in range(count):
        at += chance.expovariate(rate)
        made.append((at, length(chance)))
    return made


def opened(engine: Engine, coming: list[tuple[float, int]]) -> tuple[float, list[Call]]:
    """Asks when it is time, whether earlier requests were answered or not. The rate that came of it, as routers measure it,
    and the calls."""
    threads = []
    begin = time.monotonic()
    for at, output in coming:
        time.sleep(max(0.0, begin + at - time.monotonic()))
        threads.append(threading.Thread(target=engine.ask, args=(output,)))
        threads[-1].start()
    [thread.join() for thread in threads]
    return len(coming) / coming[-1][0], engine.taken()


def usual(fit: dict[str, float], slots: int, rate: float, count: int, seed: int) -> list[tuple[float, int]]:
    """The first arrivals after a seed that are as arrivals are on the whole, else those that are nearest to it."""
    always = percentile(ideal(fit, slots, 0, arrivals(rate, LONG, 1)))
    nearest: list[tuple[float, int]] = []
    least = math.inf
    for number in range(DRAWN):
        coming = arrivals(rate, count, seed + number)
        off = abs(percentile(ideal(fit, slots, 0, coming)) / always - 1)
        if off < least:
            nearest, least = coming, off
        if least <= USUAL:
            break
    return nearest


def ideal(fit: dict[str, float], slots: int, input_: float, coming: list[tuple[float, int]]) -> list[float]:
    """Waits at a server that works on up to so many requests at a time, on b of them at the speed of S(b)."""
    prefill, alpha, beta = fit["gamma"] * input_, fit["alpha"], fit["beta"]
    # What is left of each request is a part of it, 1 at first, beside its tokens.
    now, waits, waiting, working = 0.0, [], deque(), []
    events = iter([*coming, (math.inf, 0)])
    at, output = next(events)
    while True:
        pace = [1 / (prefill + tokens * (alpha + beta * len(working))) for _, tokens in working]
        ends = min((left / speed for (left, _), speed in zip(working, pace)), default=math.inf)
        until = min(at, now + ends)
        if until == math.inf:
            return waits
        working = [(left - (until - now) * speed, tokens) for (left, tokens), speed in zip(working, pace)]
        working = [(left, tokens) for left, tokens in working if left > 1e-9]
        now = until
        if at <= now:
            waiting.append((at, output))
            at, output = next(events)
        while waiting and len(working) < slots:
            came, tokens = waiting.popleft()
            waits.append(now - came)
            working.append((1.0, tokens))


def fitted(program: Path, slots: int, calls: list[Call]) -> dict[str, float]:
    """By the operator's estimator: gamma, alpha, beta."""
    lines = [json.dumps({"begin": c.begin, "end": c.end, "input": c.input, "output": c.output}) for c in calls]
    ran = subprocess.run([program, str(slots)], input="\n".join(lines), check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(ran.stdout)


def predicted(smallfirst: Path, slots: int, fit: dict[str, float], rate: float, calls: list[Call]) -> float:
    outputs = [call.output for call in calls]
    mean = statistics.fmean(outputs)
    workload = {"rate": rate, "inputTokens": statistics.fmean(c.input for c in calls), "outputTokens": mean}
    # Every input is the same.
    workload |= {"variation": statistics.pvariance(outputs) / mean**2, "inputVariation": 0}
    with tempfile.TemporaryDirectory(prefix="smallfirst-wait-") as name:
        pool, demand = Path(name) / "pool.yaml", Path(name) / "demand.json"
        pool.write_text(MANIFESTS % slots)
        demand.write_text(json.dumps({"workloads": {"words": workload}, "tiers": {"compact": fit}}))
        command = [smallfirst, "plan", pool, "--demand", demand]
        text = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    found = re.search(r"p95 ([\d.]+) s with 1 replica", text)
    if not found:
        raise SystemExit(f"no wait in:\n{text}")
    return float(found.group(1))


def percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(PERCENTILE * 100) - 1]


def spread(values: list[float], parts: int = 10) -> float:
    """Standard error of the percentile, by parts of the run one after the other."""
    size = len(values) // parts
    each = [percentile(values[i * size : (i + 1) * size]) for i in range(parts)]
    return statistics.stdev(each) / math.sqrt(parts)


def measure(slots: int, load: float, requests: int) -> Recording:
    """One server, one load."""
    with ExitStack() as stack:
        engine = Engine(stack, slots)
        full(engine, slots, 10)
        most = full(engine, slots)
        alone, together = 1 / full(engine, 1), slots / most
        beta = (together - alone) / max(1, slots - 1) / OUTPUT
        before = {"alpha": alone / OUTPUT - beta, "beta": beta, "gamma": 0.0}
        # With more slots fewer have to wait.
        coming = usual(before, slots, load * most, requests * min(slots, 2), round(1000 * (slots + load)))
        return Recording(slots, load, coming, *opened(engine, coming))


def row(smallfirst: Path, fit_program: Path, run: Recording) -> dict[str, object]:
    slots, load, coming, rate, calls = run.slots, run.load, run.coming, run.rate, run.calls
    # From no other calls: the machine's own speed changes by more than waits allow.
    waits, fit = [call.wait for call in calls], fitted(fit_program, slots, calls)
    expected, measured, error = predicted(smallfirst, slots, fit, rate, calls), percentile(waits), spread(waits)
    input_ = statistics.fmean(call.input for call in calls)
    here, always = (percentile(ideal(fit, slots, input_, each)) for each in (coming, arrivals(rate, LONG, 1)))
    luck = here / always if always else 1.0
    without = measured / luck if luck else measured
    # Fewer than one of twenty may wait at all, and then nobody should have been told that they do.
    off = expected / without - 1 if without else float(expected > 0)
    print(
        f"{slots} slots, {rate:.2f} requests/s ({load}): p95 wait {measured * 1000:.0f} ms measured (standard error "
        f"{error * 1000:.0f}; luck {luck:.2f}, without it {without * 1000:.0f}), {expected * 1000:.0f} predicted: "
        f"{off * 100:+.0f} %",
        flush=True,
    )
    # How much the machine's own speed changed meanwhile: the mean work of each tenth by that of all.
    size, work = len(calls) // 10, statistics.fmean(call.worked for call in calls)
    pace = [statistics.fmean(call.worked for call in calls[i * size : (i + 1) * size]) / work for i in range(10)]
    measures = {"slots": slots, "load": load, "rate": rate, "predicted": expected, "measured": measured, "ideal": always, "luck": luck, "pace": pace}
    return measures | {"error": error, "off": off, "requests": len(calls), "fit": fit}


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="of each load, twice as many with two and four slots (default: 1000)")
    parser.add_argument("--slots", type=int, nargs="*", default=SLOTS, help="of the server (default: 1 2 4)")
    parser.add_argument("--recorded", type=Path, help="calls that an earlier run has kept, in the place of a server")
    args: argparse.Namespace = parser.parse_args()
    fit_program = rig.build(args.profile, "fit")["fit"]
    folder = ROOT / "target/bench"
    folder.mkdir(parents=True, exist_ok=True)
    if args.recorded:
        kept = json.loads(args.recorded.read_text())
        runs = (Recording(**run | {"calls": [Call(**call) for call in run["calls"]]}) for run in kept)
    else:
        runs = (measure(slots, load, args.requests) for slots in args.slots for load in LOADS)
    recordings, rows = [], []
    for run in runs:
        recordings.append(asdict(run))
        if not args.recorded:
            (folder / "sizing-wait-calls.json").write_text(json.dumps(recordings))
        rows.append(row(args.smallfirst, fit_program, run))
    machine = {"cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    (folder / "sizing-wait.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    far = [row for row in rows if abs(row["off"]) > BOUND]
    raise SystemExit(f"{len(far)} of {len(rows)} further off than {BOUND:.0%}" if far else 0)


if __name__ == "__main__":
    main()
