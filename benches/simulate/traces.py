#!/usr/bin/env python3
"""Azure's traces through the example: at once, three and ten times their rate, with 10 to 30 % of small answers refused; and a
day with the frontier lost at its peak.

Held: while High's demand fits its reserve, none of it is shed or fails and its p99 is within 1.3 times that of the same
requests on an idle frontier; Low is answered by its small model where the frontier has no room. In the outage at least half of
the direct requests that may fall back are answered by the pool within its wait target, and sizing had promised so.
"""

from __future__ import annotations

import csv
from collections import deque
from datetime import datetime
from pathlib import Path

from simulator import PORTFOLIO, SCENARIO, arguments, finish, replaced, simulate

TRACES = {"conv": "AzureLLMInferenceTrace_conv.csv", "code": "AzureLLMInferenceTrace_code.csv"}
# With the replicas that a run begins with: the traces begin in the middle of a day, whose pools have been there.
SCALES, REFUSED = {1: 2, 3: 5, 10: 14}, ("0.1", "0.2", "0.3")
COMPARE = "compare: [FrontierOnly, StaticFallback, FixedPools]"
# The shape of a day: least at four in the morning, most at two in the afternoon.
DAY = [0.45, 0.3, 0.25, 0.45, 0.85, 1.3, 1.75, 2.0, 1.8, 1.4, 1.05, 0.7, 0.45]
PEAK = "outages:\n- {tier: frontier, from: 14h, to: 14h30m}\n"
TAIL = 1.3
# Of the example: High's part of the requests, its reserve of requests and of tokens a minute, and its max_tokens.
HIGH, RESERVE, MOST = 0.15, (0.6 * 2_000, 0.6 * 6_000_000), 1_024


def begin(replicas: int) -> tuple[str, str]:
    return "    podStart: 60s\n", f"    podStart: 60s\n    replicas: {replicas}\n"


def fullest(trace: Path, scale: int) -> float:
    """High's demand in the fullest minute of a trace, by its reserve: at most 1 where it fits."""
    window, tokens, most = deque(), 0, 0.0
    with trace.open(encoding="utf-8") as text:
        for row in csv.DictReader(text):
            # An account reserves what a request may use.
            at, asked = datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]) + MOST
            window.append((at, asked))
            tokens += asked
            while (at - window[0][0]).total_seconds() >= 60:
                tokens -= window.popleft()[1]
            most = max(most, len(window) * scale * HIGH / RESERVE[0], tokens * scale * HIGH / RESERVE[1])
    return most


def workload(run: dict, name: str) -> dict:
    return next(found for found in run["workloads"] if found["name"] == name)


def row(name: str, run: dict) -> str:
    total = run["total"]
    part = lambda count: f"{100 * count / total['arrived']:.2f} %"
    time = lambda seconds: "-" if seconds is None else f"{seconds:.2f} s"
    latency, each = total["latency"], total["costPerAnswer"]
    cost = "-" if each is None else f"{1000 * each:.3f}"
    return (
        f"| {name} | {run['name']} | {total['cost']:.2f} | {cost} | {time(latency['p50'])} | {time(latency['p99'])} | "
        f"{part(total['shed'])} | {part(total['failed'])} |"
    )


HEADER = "| load | | cost, USD | per 1,000 answers | p50 | p99 | 429 | failed |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"


def keeps(name: str, run: dict, demand: float, missed: list[str]) -> dict:
    """What High and Low got; High is held to where its demand fits its reserve."""
    high, low = workload(run, "contract-review"), workload(run, "support")
    ratio = high["latency"]["p99"] / high["alone"]["p99"]
    if demand <= 1 and (high["shed"] or high["failed"] or ratio > TAIL):
        missed.append(f"{name}: High: {high['shed']} shed, {high['failed']} failed, p99 {ratio:.2f} of an idle frontier's")
    if low["failed"] or low["shed"]:
        missed.append(f"{name}: Low: {low['shed']} shed, {low['failed']} failed, though its own small answers were there")
    lost = (high["shed"] + high["failed"]) / high["arrived"]
    return {"highDemand": demand, "highTail": ratio, "highLost": lost, "lowBestAnswer": low["bestAnswer"] / max(low["arrived"], 1)}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--traces", type=Path, required=True, help="folder of Azure's traces: see README.md")
    args = parser.parse_args()
    portfolio, scenario = PORTFOLIO.read_text("utf-8"), SCENARIO.read_text("utf-8")
    missed, found = [], {}
    print(HEADER)
    for trace, file in TRACES.items():
        for scale, replicas in SCALES.items():
            demand = fullest(args.traces / file, scale)
            for refused in REFUSED:
                name = f"{trace} {scale}x e={refused}"
                changes = [("{scale: 3}", f"{{scale: {scale}}}"), ('refused: "0.2"', f'refused: "{refused}"'), begin(replicas)]
                changed = replaced(scenario, *changes)
                folder = f"{trace}-{scale}x-{refused}"
                report, _, _ = simulate(args.smallfirst, args.output, folder, portfolio, changed, args.traces / file)
                for run in report["runs"]:
                    print(row(name, run), flush=True)
                found[name] = {"runs": report["runs"], **keeps(name, report["runs"][0], demand, missed)}
    shape = f"{{scale: 3, duration: 24h, shape: {DAY}}}"
    changed = replaced(scenario, ("{scale: 3}", shape)) + PEAK
    report, _, _ = simulate(args.smallfirst, args.output, "outage", portfolio, changed, args.traces / TRACES["conv"])
    for run in report["runs"]:
        print(row("a day, outage", run))
    outage = report["runs"][0]["outages"][0]
    part = outage["inTime"] / outage["arrived"]
    print(f"\noutage at the peak: {outage['arrived']} direct requests might fall back, {100 * part:.1f} % within the wait target")
    print("sizing had said: " + "; ".join(outage["promised"].values()))
    found["outage"] = outage
    if part < 0.5 or not outage["promised"]:
        missed.append(f"outage: {100 * part:.1f} % of what may fall back was answered in time; promised: {outage['promised']}")
    print("\n| load | High in its fullest minute, of its reserve | High's p99, of an idle frontier's | High lost | Low kept its small answer |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, seen in found.items():
        if "highTail" in seen:
            lost, small = (f"{100 * seen[key]:.2f} %" for key in ("highLost", "lowBestAnswer"))
            print(f"| {name} | {seen['highDemand']:.2f} | {seen['highTail']:.2f} | {lost} | {small} |")
    finish(args.output, "simulate-traces", found, missed)


if __name__ == "__main__":
    main()
