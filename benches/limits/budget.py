#!/usr/bin/env python3
"""Three routers spend one budget, while the operator and the routers are killed at random.

Nothing may be overspent, what is recorded may not be less than what the provider counted, and nearly all of the budget
must have been spendable. Prints what was seen, writes target/bench/budget.json, and fails if a bound is missed.
"""

from __future__ import annotations

import http.client
import json
import random
import sys
import threading
import time
from contextlib import ExitStack

import fleet
from fleet import ROOT, Fleet, Router
from rig import Mock, build, get, parser, until

ROUTERS = 3
# The mock counts 100 tokens of input and 8 of output; prices are a millionth each, 0.000116 a request with 2 for output.
COST = 0.000116


class Client(threading.Thread):
    """Asks one router at a steady rate until it is told to stop."""

    def __init__(self, router: Router, rate: float) -> None:
        super().__init__(daemon=True)
        self.router, self.rate = router, rate
        self.answered, self.refused, self.failed, self.in_a_row = 0, 0, 0, 0
        self.done = threading.Event()

    def run(self) -> None:
        due = time.monotonic()
        # Four bytes a token: the estimate is no less than the 100 tokens that the mock counts, whatever it is asked.
        body = json.dumps({"model": "asked", "max_tokens": 8, "messages": [{"role": "user", "content": "x" * 400}]})
        connection: http.client.HTTPConnection | None = None
        while not self.done.is_set():
            due += random.expovariate(self.rate)
            fleet.pause_until(due)
            try:
                connection = connection or http.client.HTTPConnection(self.router.address, timeout=10)
                connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
                reply = connection.getresponse()
                text = reply.read()
                if reply.status == 200:
                    self.answered, self.in_a_row = self.answered + 1, 0
                elif b"budget_exhausted" in text and b"has spent" in text:
                    self.refused, self.in_a_row = self.refused + 1, self.in_a_row + 1
                else:
                    self.failed, self.in_a_row = self.failed + 1, 0
            except (OSError, http.client.HTTPException):
                connection, self.failed = None, self.failed + 1
            due = max(due, time.monotonic() - 1)


def recorded(told: Fleet) -> float:
    budgets = told.policy().get("status", {}).get("budgets", [])
    return next((float(each["spent"]) for each in budgets if each["name"] == "workload/asked"), -1.0)


def main() -> int:
    flags = parser(__doc__)
    flags.add_argument("--seconds", type=float, default=300, help="time in which the budget would be spent without disturbances")
    flags.add_argument("--kills", type=int, default=20, help="processes that are killed meanwhile")
    flags.add_argument("--seed", type=int, default=1)
    args = flags.parse_args()
    binary = args.smallfirst.resolve()
    tools = build(args.profile, "upstream")
    fleet.alone()
    random.seed(args.seed)
    rates = [30.0, 15.0, 5.0]
    amount = sum(rates) * args.seconds * COST
    with ExitStack() as stack:
        mock = Mock(stack, tools["upstream"], "--tokens", "8", "--first-ms", "20")
        budget = f', budget: {{amount: "{amount:.6f}", per: Month}}'
        told = Fleet(stack, binary, fleet.manifests(mock.address, "m", ROUTERS, budget=budget))
        told.credentials()
        routers = [Router(told, f"front-{number}") for number in range(ROUTERS)]
        for router in routers:
            router.ready()
        clients = [Client(router, rate) for router, rate in zip(routers, rates)]
        for client in clients:
            client.start()
        begin, kills = time.monotonic(), []
        for number in range(args.kills):
            fleet.pause_until(begin + args.seconds * 0.9 * (number + random.random()) / args.kills)
            who = random.choice(["operator", *range(ROUTERS)])
            if who == "operator":
                told.restart_operator()
            else:
                routers[int(who)].restart()
            kills.append(str(who))
            print(f"{time.monotonic() - begin:5.0f} s: killed {who}; {mock.requests()} requests at the provider", flush=True)
        # Until each router has refused for some time.
        until(lambda: all(client.in_a_row >= 20 for client in clients), "the budget is spent", args.seconds * 2 + 60)
        for client in clients:
            client.done.set()
        time.sleep(2)
        spent = mock.requests() * COST
        # A status is written once a minute at most.
        begin = time.monotonic()
        while (said := recorded(told)) < spent and time.monotonic() - begin < 90:
            time.sleep(1)
    figures = {
        "amount": amount, "spent_at_provider": spent, "recorded": said, "undershoot_percent": 100 * (1 - spent / amount),
        "kills": kills, "answered": [c.answered for c in clients], "refused": [c.refused for c in clients],
        "failed_while_killed": [c.failed for c in clients], "seed": args.seed, "seconds": args.seconds,
    }  # fmt: skip
    problems = []
    if spent > amount:
        problems.append("overspent")
    if said < spent:
        problems.append("less is recorded than was spent")
    if spent < 0.97 * amount:
        problems.append("more than 3 % could not be spent")
    figures["problems"] = problems
    out = ROOT / "target" / "bench" / "budget.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
