#!/usr/bin/env python3
"""Measures the router beside nginx: the same job, the same backend, the same load generator, in one run.

    benches/gateway/run.py --smallfirst target/release/smallfirst [--seconds 8] [--rounds 3]

Rounds are interleaved in rotating order, because a machine's speed drifts; what counts is the ratio within a round.
The load generator, the system under test and the backend share the machine, so a ratio is one of the whole chain.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import systems
from systems import NAMES, System

ROOT = Path(__file__).resolve().parents[2]
CONNECTIONS = 64
TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Sample:
    rps: float
    cpu_us: float
    rss_mib: float


def drive(system: System, folder: Path, seconds: int) -> float:
    """Requests a second; any answer that is not 200 ends the benchmark."""
    script = folder / "request.lua"
    body = json.dumps(systems.request(system.model))
    script.write_text(
        f"wrk.method = 'POST'\nwrk.body = [==[{body}]==]\nwrk.headers['content-type'] = 'application/json'\n"
        f"wrk.headers['authorization'] = 'Bearer {systems.KEY}'\n"
    )
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), f"http://{system.address}{system.path}"]
    text = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        sys.exit(f"{system.name}: not every request was answered with 200\n{text}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not found:
        sys.exit(f"wrk said something else:\n{text}")
    return float(found.group(1))


def family(pid: int) -> list[int]:
    """A process and its children: nginx has workers."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_seconds(pids: list[int]) -> float:
    def of(pid: int) -> int:
        # The name may hold spaces: fields are counted from its closing parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    return sum(map(of, pids)) / TICK


def memory_mib(pids: list[int]) -> float:
    """Proportional set size: what workers share counts once."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts) / 1024


def measure(system: System, folder: Path, seconds: int) -> Sample:
    drive(system, folder, 1)
    pids = family(system.process.pid)
    before = cpu_seconds(pids)
    rps = drive(system, folder, seconds)
    used = cpu_seconds(pids) - before
    return Sample(rps, used * 1e6 / (rps * seconds), memory_mib(pids))


def output(*command: str) -> str:
    done = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""


def machine() -> dict[str, object]:
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
        "nginx": output("nginx", "-v").removeprefix("nginx version: "),
        "wrk": output("wrk", "-v").split(" Copyright")[0],
    }


def summary(samples: dict[str, list[Sample]]) -> tuple[dict, dict]:
    middle = {
        name: {
            "rps_c64": round(median(s.rps for s in each)),
            "cpu_us_c64": round(median(s.cpu_us for s in each), 1),
            "rss_mib": round(median(s.rss_mib for s in each), 1),
        }
        for name, each in samples.items()
    }
    ratios = {}
    for name, each in samples.items():
        of_rounds = [ours.rps / base.rps for ours, base in zip(each, samples["nginx"], strict=True)]
        ratios[name] = {"median": round(median(of_rounds), 3), "min": round(min(of_rounds), 3), "max": round(max(of_rounds), 3)}
    return middle, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smallfirst", type=Path, required=True, help="the binary, built for release")
    parser.add_argument("--seconds", type=int, default=8, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "target/bench/gateway.json")
    args = parser.parse_args()
    for tool in ("nginx", "wrk"):
        if not shutil.which(tool, path=systems.SEARCH):
            sys.exit(f"{tool} is not installed: run 'make bench-deps'")
    facts = machine()
    samples: dict[str, list[Sample]] = {name: [] for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="smallfirst-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        running = systems.start(stack, folder, args.smallfirst.resolve())
        for round_ in range(args.rounds):
            shift = round_ % len(NAMES)
            for system in running[shift:] + running[:shift]:
                sample = measure(system, folder, args.seconds)
                samples[system.name].append(sample)
                print(f"round {round_ + 1}  {system.name:18} {sample.rps:8.0f} requests/s {sample.cpu_us:6.1f} us CPU {sample.rss_mib:6.1f} MiB", flush=True)
    middle, ratios = summary(samples)
    print(f"\nmedians of {args.rounds} rounds of {args.seconds} s at 64 connections; ratio to nginx of the same round")
    for name, values in middle.items():
        ratio = ratios[name]
        print(
            f"  {name:18} {values['rps_c64']:8} requests/s {values['cpu_us_c64']:6} us CPU {values['rss_mib']:6} MiB"
            f"  {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"
        )
    commit = output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    report = {
        "commit": commit,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "seconds": args.seconds,
        "rounds": {name: [vars(sample) for sample in each] for name, each in samples.items()},
        "systems": middle,
        "ratio_to_nginx": ratios,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
