#!/usr/bin/env python3
"""Six routers share one account of 8 places and 120 requests a minute under skewed load; then the operator is gone.

The stand-in provider counts what is over its quota: there must be none, with the operator and without, and with it at least
90 % of the quota must be used. Prints what was seen, writes target/bench/quota.json, and fails if a bound is missed.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import fleet
from fleet import ROOT, Fleet, Router
from rig import get, parser, port, until

ROUTERS, PLACES, RATE = 6, 8, 120
# Clients of each router.
LOAD = [24, 6, 2, 1, 1, 0]
RECORDINGS = ROOT / "tests" / "data" / "intents-frontier.jsonl"


class Client(threading.Thread):
    """Asks again as soon as it is answered, or a little later if it is refused."""

    def __init__(self, router: Router, text: str, done: threading.Event) -> None:
        super().__init__(daemon=True)
        self.router, self.done, self.statuses = router, done, {}
        self.body = json.dumps({"model": "asked", "max_tokens": 16, "messages": [{"role": "user", "content": text}]})

    def run(self) -> None:
        while not self.done.is_set():
            try:
                connection = http.client.HTTPConnection(self.router.address, timeout=15)
                connection.request("POST", "/v1/chat/completions", self.body, {"content-type": "application/json"})
                reply = connection.getresponse()
                reply.read()
                status = reply.status
            except (OSError, http.client.HTTPException) as error:
                status = type(error).__name__
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status != 200:
                time.sleep(0.3)


def main() -> int:
    flags = parser(__doc__)
    flags.add_argument("--first", type=float, default=60, help="time with load before the use is measured")
    flags.add_argument("--seconds", type=float, default=300, help="time with the operator")
    flags.add_argument("--without", type=float, default=60, help="time without it")
    args = flags.parse_args()
    binary = args.smallfirst.resolve()
    standin = ROOT / "target" / "bench" / "standin"
    standin.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["go", "build", "-o", standin, "."], cwd=ROOT / "tests" / "standin", check=True)
    fleet.alone()
    api, admin = (f"127.0.0.1:{port()}" for _ in range(2))

    def stats() -> dict:
        return json.loads(get(f"http://{admin}/stats"))

    with ExitStack() as stack:
        command = [
            standin, "--listen", api, "--admin", admin, "--recordings", RECORDINGS, "--requests-per-minute", str(RATE),
            "--tokens-per-minute", "0", "--max-concurrent", str(PLACES),
        ]  # fmt: skip
        stack.callback(subprocess.Popen(command, stderr=subprocess.DEVNULL).kill)
        until(lambda: bool(stats()), "the provider")
        quota = f"quota: {{requestsPerMinute: {RATE}, maxConcurrent: {PLACES}}}"
        told = Fleet(stack, binary, fleet.manifests(api, "frontier-large", ROUTERS, quota=quota))
        told.credentials()
        routers = [Router(told, f"front-{number}") for number in range(ROUTERS)]
        for router in routers:
            router.ready()
        # A new leader lends nothing at first.
        time.sleep(8)
        text = json.loads(RECORDINGS.read_text().splitlines()[0])["text"]
        done = threading.Event()
        clients = [Client(router, text, done) for router, number in zip(routers, LOAD) for _ in range(number)]
        for client in clients:
            client.start()
        # New processes have no floors for a minute (ADR 21). What is over the quota counts from the start.
        time.sleep(args.first)
        before = stats()
        time.sleep(args.seconds)
        middle = stats()
        print(f"{args.seconds:.0f} s with the operator: {middle}", flush=True)
        told.operator.kill()
        time.sleep(args.without)
        after = stats()
        done.set()
        # Before the routers end: what they cut then would count as failed.
        for client in clients:
            client.join()
        print(f"{args.without:.0f} s without: {after}", flush=True)
    used = (middle["answered"] - before["answered"]) / (RATE * args.seconds / 60)
    statuses: dict[str, int] = {}
    for client in clients:
        for status, count in client.statuses.items():
            statuses[str(status)] = statuses.get(str(status), 0) + count
    figures = {
        "over_quota_with": middle["overQuota"], "over_quota_without": after["overQuota"] - middle["overQuota"],
        "used_percent": 100 * used, "answered_without": after["answered"] - middle["answered"],
        "most_at_a_time": after["maxRunning"], "statuses": statuses, "seconds": args.seconds,
    }  # fmt: skip
    problems = []
    if after["overQuota"]:
        problems.append("the provider was asked over its quota")
    if used < 0.9:
        problems.append("less than 90 % of the quota was used")
    figures["problems"] = problems
    (ROOT / "target" / "bench" / "quota.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
