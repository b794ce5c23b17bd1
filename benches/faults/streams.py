#!/usr/bin/env python3
"""Many streams at once, each of whose events is checked: none lost, repeated, out of order or of another stream.

    benches/faults/streams.py --smallfirst target/release/smallfirst [--streams 2000] [--seconds 30]
"""

from __future__ import annotations

from contextlib import ExitStack

import rig


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--streams", type=int, default=2000, help="at a time")
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    rig.raise_limit()
    tools = rig.build(args.profile, "load", "upstream")
    with ExitStack() as stack:
        mocks = [rig.Mock(stack, tools["upstream"], "--pace-ms", "100") for _ in range(2)]
        router = rig.Router(stack, args.smallfirst, {"compact": mocks, "frontier": mocks[:1]})
        load = rig.Load(stack, tools["load"], router.address, "live", connections=args.streams, seconds=args.seconds, stream=True)
        done = load.result()
    first = done["first_token_us"]
    print(
        f"{done['ok']} streams of 64 tokens, {done['failed']} failed; first token p50 {rig.milliseconds(first['p50'])},"
        f" p99 {rig.milliseconds(first['p99'])}"
    )
    problems = [f"{done['failed']} streams failed: {done['failed_by_kind']}"] if done["failed"] else []
    rig.finish("streams", {"streams": args.streams, **done}, problems)


if __name__ == "__main__":
    main()
