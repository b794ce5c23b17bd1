#!/usr/bin/env python3
"""How fast the simulator is: a day at 50 requests a second on one core, and 100 pools for an hour."""

from __future__ import annotations

from simulator import PORTFOLIO, SAMPLE, SCENARIO, arguments, finish, replaced, simulate

DAY_SECONDS, DAY_MIB, POOLS_SECONDS = 60, 500, 300
POOLS = 100
# Requests a second of the sample.
RATE = 4.629
COMPARE = "compare: [FrontierOnly, StaticFallback, FixedPools]"


def many(pools: int) -> tuple[str, str]:
    """The example with so many pools, each with a path and all but the last with a workload: 64 are the most."""
    documents = PORTFOLIO.read_text("utf-8").split("\n---\n")
    pool, frontier, path, _, policy = documents
    workloads = min(pools // 2, 60)
    out, names = [frontier], [f"pool-{n}" for n in range(pools)]
    out += [pool.replace("name: compact,", f"name: {name},") for name in names]
    listed = []
    for n in range(workloads):
        first, second = names[n * 2], names[n * 2 + 1]
        steps = replaced(path, ("name: small-first", f"name: path-{n}"), ("tierRef: {name: compact}", f"tierRef: {{name: {first}}}"))
        back = f"  - name: other\n    tierRef: {{name: {second}}}\n    entry: FailoverOnly\n  failover:"
        out.append(replaced(steps, ("  failover:", back)))
        listed.append(
            f"  - {{name: work-{n}, owner: bench, risk: Low, match: {{models: [work-{n}]}}, pathRef: {{name: path-{n}}}}}"
        )
    clients = ", ".join(f"work-{n}" for n in range(workloads))
    policy = replaced(policy, ("[support, drafts, contract-review]", f"[{clients}]"))
    begin, end = policy.index("  - name: support"), policy.index("  default:")
    out.append(policy[:begin] + "\n".join(listed) + "\n" + policy[end:])
    scenario = SCENARIO.read_text("utf-8")
    begin, end = scenario.index("  compact:\n"), scenario.index("  frontier:\n")
    tier = scenario[begin:end]
    tiers = "".join(tier.replace("compact:", f"{name}:", 1) for name in names[: workloads * 2])
    requests = "\n".join(
        f'- {{client: office, model: work-{n}, maxTokens: 1024, steps: {{compact: {{refused: "0.2"}}}}}}' for n in range(workloads)
    )
    tail = scenario.index("requests:")
    return "\n---\n".join(out), scenario[:begin] + tiers + scenario[end:tail] + f"requests:\n{requests}\n"


def main() -> None:
    args = arguments(__doc__).parse_args()
    scenario = SCENARIO.read_text("utf-8")
    scale = 50 / RATE
    day = replaced(scenario, ("load: {scale: 3}", f"load: {{scale: {scale:.4f}, duration: 24h}}"), (COMPARE, ""))
    missed, found = [], {}
    report, seconds, mib = simulate(args.smallfirst, args.output, "day", PORTFOLIO.read_text("utf-8"), day, SAMPLE)
    run = report["runs"][0]
    rate = run["total"]["arrived"] / report["duration"]
    print(f"a day at {rate:.1f} requests/s: {seconds:.1f} s, {mib:.0f} MiB, {run['events']:,} events")
    found["day"] = {"seconds": seconds, "mib": mib, "rate": rate, "events": run["events"]}
    if rate < 49.5:
        missed.append(f"the day had {rate:.1f} requests a second instead of 50")
    if seconds >= DAY_SECONDS or mib >= DAY_MIB:
        missed.append(f"a day: {seconds:.1f} s and {mib:.0f} MiB, not below {DAY_SECONDS} s and {DAY_MIB} MiB")
    portfolio, pools = many(POOLS)
    pools = replaced(pools, ("load: {scale: 3}", f"load: {{scale: {scale:.4f}, duration: 1h}}"))
    report, seconds, mib = simulate(args.smallfirst, args.output, "pools", portfolio, pools, SAMPLE)
    run = report["runs"][0]
    count = len(report["pools"])
    print(f"{count} pools for an hour: {seconds:.1f} s, {mib:.0f} MiB, {run['events']:,} events")
    found["pools"] = {"pools": count, "seconds": seconds, "mib": mib, "events": run["events"]}
    if count < POOLS or seconds >= POOLS_SECONDS:
        missed.append(f"{count} pools for an hour: {seconds:.1f} s, not {POOLS} below {POOLS_SECONDS} s")
    finish(args.output, "simulate-speed", found, missed)


if __name__ == "__main__":
    main()
