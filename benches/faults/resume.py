#!/usr/bin/env python3
"""Kill or freeze a real engine in mid-stream: the client's stream goes on without a gap or doubled text.

    benches/faults/resume.py --smallfirst target/release/smallfirst [--streams 20]

Two llama.cpp servers with a real small model, one slot each, greedy. What is asked is streamed undisturbed first; then
again, and the engine that works on it is killed or stopped after some tokens. The texts may part some words after the
break: greedy decoding of a quantised model depends on what its cache holds, so undisturbed runs part too.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import rig

TOKENS = 160
# Their first words are likely enough for the gate of the path.
PROMPTS = (
    "Tell a long story about a bank.",
    "Describe a walk along a river.",
    "Explain how bread is made.",
    "Write about the history of trains.",
)


class Engine:
    """A llama.cpp server with one slot."""

    def __init__(self, stack: ExitStack) -> None:
        self.address = f"127.0.0.1:{rig.port()}"
        self.start()
        stack.callback(lambda: self.process.kill())

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1"

    def start(self) -> None:
        command = [rig.ROOT / "tests/engine/serve", "--port", self.address.split(":")[1], "--parallel", "1"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        rig.until(lambda: bool(rig.get(f"http://{self.address}/health")), "an engine", 60)

    def worked(self) -> int:
        """Clock ticks of the processor that it has had."""
        times = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(times[11]) + int(times[12])

    def disturb(self, by: signal.Signals) -> None:
        self.process.send_signal(by)

    def mend(self, by: signal.Signals) -> None:
        if by == signal.SIGKILL:
            self.process.wait()
            self.start()
        else:
            self.process.send_signal(signal.SIGCONT)


@dataclass
class Stream:
    pieces: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    usage: dict[str, Any] = field(default_factory=dict)
    done: bool = False
    error: str = ""
    ended: str = ""
    longest_gap: float = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def stream(address: str, prompt: str, after: int = 0, act: Callable[[], None] = lambda: None) -> Stream:
    asked = {"model": "live", "stream": True, "temperature": 0, "max_tokens": TOKENS, "stream_options": {"include_usage": True}}
    asked["messages"] = [{"role": "user", "content": prompt}]
    headers = {"content-type": "application/json", "authorization": f"Bearer {rig.KEY}"}
    request = urllib.request.Request(f"http://{address}/v1/chat/completions", json.dumps(asked).encode(), headers)
    got, last = Stream(), time.monotonic()
    with urllib.request.urlopen(request, timeout=60) as answer:
        for line in answer:
            payload = line.decode().strip().removeprefix("data: ")
            got.done |= payload == "[DONE]"
            if not payload.startswith("{"):
                continue
            chunk = json.loads(payload)
            if "error" in chunk:
                got.error = chunk["error"]["code"]
                continue
            got.ids.add(chunk["id"])
            got.usage = chunk.get("usage") or got.usage
            got.ended = chunk["choices"][0]["finish_reason"] or got.ended if chunk["choices"] else got.ended
            piece = chunk["choices"][0]["delta"].get("content") if chunk["choices"] else None
            if piece:
                now = time.monotonic()
                got.longest_gap, last = max(got.longest_gap, now - last), now
                got.pieces.append(piece)
                if len(got.pieces) == after:
                    act()
    return got


def problem(got: Stream) -> str:
    if got.error or not got.done:
        return f"ended with {got.error or 'no [DONE]'} after {len(got.pieces)} tokens"
    if len(got.ids) != 1 or got.ended not in ("stop", "length"):
        return f"{len(got.ids)} ids, ended by {got.ended or 'nothing'}"
    counted = got.usage.get("completion_tokens", 0)
    # A token may have no text, the one that ends an answer has none.
    if not 0 <= counted - len(got.pieces) <= 2 or got.ended == "length" and counted != TOKENS:
        return f"{len(got.pieces)} pieces, ended by {got.ended}, and usage says {counted} tokens of {TOKENS}"
    return ""


def main() -> None:
    parser = rig.parser(__doc__)
    parser.add_argument("--streams", type=int, default=20)
    args = parser.parse_args()
    rows, problems = [], []
    with ExitStack() as stack:
        engines = [Engine(stack) for _ in range(2)]
        router = rig.Router(stack, args.smallfirst, {"compact": engines, "frontier": engines[:1]})
        for number in range(args.streams):
            prompt, by = PROMPTS[number % len(PROMPTS)], (signal.SIGKILL, signal.SIGSTOP)[number // len(PROMPTS) % 2]
            after = 20 + 10 * (number % 7)
            whole = stream(router.address, prompt)
            disturbed: list[Engine] = []

            def disturb() -> None:
                before = [engine.worked() for engine in engines]
                time.sleep(0.1)
                gains = [engine.worked() - had for engine, had in zip(engines, before, strict=True)]
                engine = engines[gains.index(max(gains))]
                engine.disturb(by)
                disturbed.append(engine)

            got = stream(router.address, prompt, after, disturb)
            for engine in disturbed:
                engine.mend(by)
            same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(whole.pieces, got.pieces, strict=False))))
            wrong = problem(got)
            problems += [f"stream {number}: {wrong}"] if wrong else []
            rows.append({"by": by.name, "after": after, "same_tokens": same, "longest_gap_s": round(got.longest_gap, 3), "problem": wrong})
            print(f"{by.name} after {after} tokens: {wrong or 'went on'}; same as undisturbed for {same} of {TOKENS} tokens, longest gap {got.longest_gap:.2f} s", flush=True)
            if by == signal.SIGSTOP:
                # The router leaves a frozen endpoint alone for five seconds.
                time.sleep(5.5)
    rig.finish("resume", {"streams": rows}, problems)


if __name__ == "__main__":
    main()
