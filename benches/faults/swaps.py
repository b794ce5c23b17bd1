#!/usr/bin/env python3
"""A thousand table swaps under load: no request fails, and p99 is within 1.5 times that of a run without swaps.

    benches/faults/swaps.py --smallfirst target/release/smallfirst [--swaps 1000] [--rate 500]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import rig

EVERY_MS = 20
WORSE = 1.5


def run(args: argparse.Namespace, tools: dict[str, Path], swaps: int) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smallfirst-bench-")))
        mocks = [rig.Mock(stack, tools["upstream"]) for _ in range(2)]
        # The table that the operator would compile.
        router = rig.Router(stack, args.smallfirst, {"compact": mocks[:1], "frontier": mocks[1:]})
        table = folder / "table.json"
        table.write_bytes(rig.get(f"http://{router.admin}/table"))
        router.process.kill()
        command = [tools["swaps"], "--table", table, "--key", rig.KEY, "--swaps", swaps, "--every-ms", EVERY_MS]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, env=rig.QUIET)
        stack.callback(process.kill)
        assert process.stdout
        address = process.stdout.readline().removeprefix("listening ").strip()
        load = rig.Load(stack, tools["load"], address, "up", rate=args.rate, seconds=args.swaps * EVERY_MS / 1000 + 1)
        swapped = process.stdout.readline().strip()
        return {"swapped": swapped, **load.result()}


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=500, help="requests a second")
    args = parser.parse_args()
    tools = rig.build(args.profile, "load", "upstream", "swaps")
    without, swapped = run(args, tools, 0), run(args, tools, args.swaps)
    for name, done in (("without", without), ("with", swapped)):
        print(f"{name:8} swaps: {done['ok']} answered, {done['failed']} failed, p99 {rig.milliseconds(done['latency_us']['p99'])}")
    ratio = swapped["latency_us"]["p99"] / without["latency_us"]["p99"]
    problems = [f"{done['failed']} failed: {done['failed_by_kind']}" for done in (without, swapped) if done["failed"]]
    if ratio > WORSE:
        problems.append(f"p99 is {ratio:.2f} times that without swaps")
    rig.finish("swaps", {"without": without, "with": swapped, "p99_ratio": round(ratio, 2)}, problems)


if __name__ == "__main__":
    main()
