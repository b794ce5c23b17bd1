#!/usr/bin/env python3
"""A long run with faults and clients that leave: memory stays flat, no socket, thread or descriptor is left behind.

    benches/faults/soak.py --smallfirst target/release/smallfirst [--seconds 600] [--rate 500]

5 % of upstream replies are errors, resets or cut in their middle; 10 % of clients leave. A tenth of the requests are
streams. A task that is left behind holds a socket or memory: it shows there.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import ExitStack
from pathlib import Path

import rig

GROWTH_MIB = 5


def rss_mib(pid: int) -> float:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def descriptors(pid: int, listen: str) -> dict[str, int]:
    """Descriptors by what they are: sockets of clients, other sockets, the rest; and threads."""
    ports, number = {}, f":{int(listen.rpartition(':')[2]):04X}"
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        # 0A is a listener.
        if fields[3] != "0A":
            ports[fields[9]] = fields[1].endswith(number)
    count = {"clients": 0, "upstreams": 0, "other": 0, "threads": len(os.listdir(f"/proc/{pid}/task"))}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            to = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        inode = to.removeprefix("socket:[").removesuffix("]")
        count["other" if inode not in ports else "clients" if ports[inode] else "upstreams"] += 1
    return count


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=500, help="requests a second")
    args = parser.parse_args()
    warm = min(60.0, args.seconds / 5)
    tools = rig.build(args.profile, "load", "upstream")
    with ExitStack() as stack:
        mocks = [rig.Mock(stack, tools["upstream"], "--first-ms", "10") for _ in range(3)]
        router = rig.Router(stack, args.smallfirst, {"compact": mocks[:2], "frontier": mocks[2:]})
        pid = router.process.pid
        for mock in mocks[:2]:
            mock.fault("error,reset,cut", 5)
        common = {"seconds": args.seconds, "leave_percent": 10, "timeout_ms": 10_000}
        loads = [
            rig.Load(stack, tools["load"], router.address, "up", rate=args.rate * 0.9, **common),
            rig.Load(stack, tools["load"], router.address, "up", rate=args.rate * 0.1, stream=True, **common),
        ]
        begin, samples = time.monotonic(), []
        while (now := time.monotonic() - begin) < args.seconds - 0.5:
            samples.append({"at_s": round(now, 1), "rss_mib": round(rss_mib(pid), 2), **descriptors(pid, router.address)})
            time.sleep(min(1.0, args.seconds / 20))
        results = [load.result() for load in loads]
        rig.until(lambda: descriptors(pid, router.address)["clients"] == 0, "the sockets of clients that left are closed")
        last = {"rss_mib": round(rss_mib(pid), 2), **descriptors(pid, router.address)}
    early = [sample for sample in samples if sample["at_s"] <= warm]
    first, grown = early[-1], samples[-1]["rss_mib"] - early[-1]["rss_mib"]
    kept = max(sample["upstreams"] for sample in early)
    problems = []
    if grown >= GROWTH_MIB:
        problems.append(f"memory grew by {grown:.1f} MiB")
    problems += [f"{name}: {first[name]} before, {last[name]} at the end" for name in ("threads", "other") if last[name] > first[name]]
    if last["upstreams"] > kept + 10:
        problems.append(f"connections to upstreams: {kept} before, {last['upstreams']} at the end")
    problems += [f"{done['failed']} failed: {done['failed_by_kind']}" for done in results if done["failed"]]
    print(
        f"{sum(done['ok'] for done in results)} answered, {sum(done['left'] for done in results)} left,"
        f" {sum(done['failed'] for done in results)} failed; {first['rss_mib']} MiB after {first['at_s']:.0f} s,"
        f" {samples[-1]['rss_mib']} at the end; at the end {last}"
    )
    rig.finish("soak", {"loads": results, "samples": samples, "last": last}, problems)


if __name__ == "__main__":
    main()
