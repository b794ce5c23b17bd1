#!/usr/bin/env python3
"""Clients that see nothing: a replica, then all of a tier, is killed, frozen, answers 500, resets; a client waits 2 s.

    benches/faults/failover.py --smallfirst target/release/smallfirst [--seconds 10] [--rate 200]

No request may fail. Also told: how long a replica that is well again waits for its first request.
"""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import rig

FAULTS = ("killed", "frozen", "error", "reset")
CALM = 2.0


def break_(mock: rig.Mock, fault: str) -> None:
    match fault:
        case "killed":
            mock.kill()
        case "frozen":
            mock.signal(signal.SIGSTOP)
        case kind:
            mock.fault(kind)


def mend(mock: rig.Mock, fault: str) -> None:
    match fault:
        case "killed":
            mock.start(mock.address)
        case "frozen":
            mock.signal(signal.SIGCONT)
        case _:
            mock.fault("none")


def run(args: argparse.Namespace, tools: dict[str, Path], replicas: int, fault: str) -> dict[str, object]:
    with ExitStack() as stack:
        mocks = [rig.Mock(stack, tools["upstream"]) for _ in range(3)]
        router = rig.Router(stack, args.smallfirst, {"compact": mocks[:2], "frontier": mocks[2:]})
        load = rig.Load(stack, tools["load"], router.address, "up", rate=args.rate, seconds=600, timeout_ms=2000)
        time.sleep(CALM)
        for mock in mocks[:replicas]:
            break_(mock, fault)
        time.sleep(args.seconds)
        for mock in mocks[:replicas]:
            mend(mock, fault)
        before = mocks[0].requests()
        # It hears what it was asked while it was frozen: that is no request that came back to it.
        time.sleep(0.2)
        before = mocks[0].requests() if fault == "frozen" else before
        back = rig.until(lambda: mocks[0].requests() > before, "the replica is asked again", 60)
        time.sleep(CALM)
        return {"broken": "replica" if replicas == 1 else "tier", "fault": fault, "back_s": round(back, 2), **load.stop()}


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of one fault")
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    args = parser.parse_args()
    tools = rig.build(args.profile, "load", "upstream")
    runs, problems = [], []
    for replicas in (1, 2):
        for fault in FAULTS:
            done = run(args, tools, replicas, fault)
            runs.append(done)
            latency = done["latency_us"]
            print(
                f"{done['broken']:8} {fault:7} {done['ok']:6} answered {done['failed']:4} failed  p99 {rig.milliseconds(latency['p99'])}"
                f"  max {rig.milliseconds(latency['max'])}  back after {done['back_s']} s",
                flush=True,
            )
            if done["failed"]:
                problems.append(f"{done['broken']} {fault}: {done['failed']} failed: {done['failed_by_kind']}")
    rig.finish("failover", {"runs": runs}, problems)


if __name__ == "__main__":
    main()
