#!/usr/bin/env python3
"""Measures the router beside other gateways: the same job, the same backend, the same load generators, in one run.

    benches/gateway/run.py --smallfirst target/release/smallfirst [--systems nginx,smallfirst] [--rounds 3] [--seconds 5]

Rounds are interleaved in rotating order, because a machine's speed drifts; what counts is the ratio within a round.
The load generator, the system under test and the backend share the machine, so a ratio is one of the whole chain. Only
one system runs at a time. One that does not start is told with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import measure
import peers
import report
import systems
from measure import Rig, Turn
from processes import Failed, Place, port
from systems import Backend, System

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The load tests of benches/faults build and start the same mock and load generator.
sys.path.append(str(HERE.parent / "faults"))
import rig as tools  # noqa: E402


def told(turn: Turn) -> str:
    """A line of progress."""
    names = {"rps_c1": "/s at 1", "rps_c16": "/s at 16", "rps_c64": "/s at 64", "cpu_us_c64": "us CPU", "rss_mib": "MiB"}
    known = [f"{turn.figures[name]:.0f} {unit}" for name, unit in names.items() if name in turn.figures]
    return "  ".join(known + [f"[{why}]" for why in turn.missing])


def write(path: Path, args: argparse.Namespace, chosen: list[System], facts: dict, rounds: report.Rounds) -> dict:
    """After every round, so that what was measured is kept whatever comes."""
    result = {
        "commit": systems.output("git", "-C", ROOT, "rev-parse", "--short", "HEAD"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "seconds": args.seconds,
        **report.summary(chosen, rounds),
        "rounds": [
            {s.name: {"figures": report.full(s, turns), "missing": turns[s.name].missing} for s in chosen if s.name in turns}
            for turns in rounds
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def plot(path: Path) -> None:
    python = peers.program("plot", "python")
    try:
        subprocess.run([python, HERE / "plot.py", path], check=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"no plots: {error}")


def options(known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--smallfirst", type=Path, required=True, help="the binary, built for release")
    parser.add_argument("--systems", default="all", help=f"some of {','.join(known)}; ratios need nginx, what is added direct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of one measurement; a turn has about six")
    parser.add_argument("--profile", default="fast", help="of cargo, for the load generator and the mock (default: fast)")
    parser.add_argument("--output", type=Path, default=ROOT / "target/bench/gateway.json")
    args = parser.parse_args()
    args.names = known if args.systems == "all" else args.systems.split(",")
    if unknown := set(args.names) - set(known):
        parser.error(f"--systems: there is no {', '.join(sorted(unknown))}")
    for number in ("rounds", "seconds"):
        if getattr(args, number) < 1:
            parser.error(f"--{number}: must be at least 1")
    return args


def stopped(number: int, _frame: object) -> None:
    """What was started is ended on the way out."""
    sys.exit(f"stopped by {signal.Signals(number).name}")


def everything(binary: Path, bare: Path) -> list[System]:
    before, after = systems.ours(binary, bare)
    return [*before, *peers.ALL, *after]


def main() -> None:
    args = options([system.name for system in everything(Path(), Path())])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stopped)
    for tool in ("nginx", "wrk"):
        if not shutil.which(tool):
            sys.exit(f"{tool} is not installed: run 'make bench-deps'")
    tools.raise_limit()
    built = tools.build(args.profile, "load", "upstream", "bare")
    chosen = [system for system in everything(args.smallfirst.resolve(), built["bare"]) if system.name in args.names]
    facts = report.machine(chosen)
    print("\n".join(f"{name} {version}" for name, version in facts["versions"].items()), flush=True)
    rounds: report.Rounds = []
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="smallfirst-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "backend").mkdir()
        fast = Place(stack, folder / "backend", port())
        try:
            systems.backend(fast)
        except Failed as error:
            sys.exit(f"the backend: {error}")
        mock = tools.Mock(stack, built["upstream"], "--pace-ms", "2")
        shared = Rig(folder, Backend(fast.listen), Backend(int(mock.address.rpartition(":")[2]), streams=True), built["load"], args.seconds)
        for round_ in range(args.rounds):
            shift = round_ * len(chosen) // args.rounds
            turns: dict[str, Turn] = {}
            rounds.append(turns)
            for system in chosen[shift:] + chosen[:shift]:
                # One that did not start would take its two minutes every time.
                if any(system.name in earlier and not earlier[system.name].figures for earlier in rounds[:-1]):
                    continue
                turns[system.name] = measure.take(shared, system)
                print(f"round {round_ + 1}  {system.name:17} {told(turns[system.name])}", flush=True)
            result = write(args.output, args, chosen, facts, rounds)
    minutes = (time.monotonic() - begin) / 60
    print(f"\nmedians of {args.rounds} rounds of {args.seconds} s a measurement, {minutes:.0f} minutes\n")
    print(report.markdown(result))
    plot(args.output)
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
