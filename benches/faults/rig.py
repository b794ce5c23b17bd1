"""What a run needs: mock model servers, the router in front of them, the load generator, and a report."""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEY = "bench-key"
QUIET = {**os.environ, "RUST_LOG": "error"}


def build(profile: str, *names: str) -> dict[str, Path]:
    """Builds bench targets, and says where they are."""
    targets = [word for name in names for word in ("--bench", name)]
    command = ["cargo", "build", "--locked", "--profile", profile, "--message-format", "json", *targets]
    lines = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE).stdout.splitlines()
    messages = [json.loads(line) for line in lines]
    return {m["target"]["name"]: Path(m["executable"]) for m in messages if m.get("executable") and m["target"]["kind"] == ["bench"]}


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Flags that all runs have. One that is told to end ends what it has started, on the way out."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--smallfirst", type=Path, required=True, help="the binary")
    # Without link-time optimisation, which takes minutes.
    parser.add_argument("--profile", default="fast", help="of cargo, for the load generator and the mock (default: fast)")
    return parser


def raise_limit() -> None:
    """Thousands of streams are as many descriptors, twice."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def get(url: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
        return answer.read()


def until(done: Callable[[], bool], what: str, seconds: float = 10) -> float:
    """Waits, and says how long it took."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        try:
            if done():
                return time.monotonic() - begin
        except OSError:
            pass
        time.sleep(0.02)
    raise SystemExit(f"{what}: not within {seconds:.0f} s")


class Mock:
    """A model server that goes wrong on demand."""

    def __init__(self, stack: ExitStack, binary: Path, *flags: str) -> None:
        self.command = [str(binary), *flags]
        self.address = ""
        self.start("127.0.0.1:0")
        stack.callback(lambda: self.process.kill())

    def start(self, listen: str) -> None:
        self.process = subprocess.Popen([*self.command, "--listen", listen], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.address = self.process.stdout.readline().removeprefix("listening ").strip()

    def fault(self, kind: str, percent: int = 100) -> None:
        get(f"http://{self.address}/fault?kind={kind}&percent={percent}", "POST")

    def requests(self) -> int:
        return json.loads(get(f"http://{self.address}/stats"))["requests"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def url(self) -> str:
        return f"http://{self.address}/v1"


class Router:
    """`smallfirst local` in front of mocks."""

    def __init__(self, stack: ExitStack, binary: Path, tiers: dict[str, list[Mock]]) -> None:
        endpoints = [word for tier, mocks in tiers.items() for mock in mocks for word in ("--endpoint", f"{tier}={mock.url}")]
        self.address, self.admin = (f"127.0.0.1:{port()}" for _ in range(2))
        command = [
            str(binary), "local", str(HERE / "manifests.yaml"), *endpoints, "--secret", f"keys/bench={KEY}",
            "--listen", self.address, "--admin", self.admin,
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=QUIET)
        stack.callback(self.process.kill)
        self.ready()

    def ready(self) -> None:
        until(lambda: bool(get(f"http://{self.admin}/readyz")), "the router is ready")


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Load:
    """The load generator, running. Every reply is checked for its tokens."""

    def __init__(self, stack: ExitStack, binary: Path, address: str, model: str, **flags: object) -> None:
        command = [str(binary), "--url", f"http://{address}/v1/chat/completions", "--key", KEY, "--model", model, "--check"]
        for name, value in flags.items():
            command += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        stack.callback(self.process.kill)

    def stop(self) -> dict[str, Any]:
        self.process.terminate()
        return self.result()

    def result(self) -> dict[str, Any]:
        text = self.process.communicate()[0]
        if self.process.returncode:
            raise SystemExit(f"the load generator ended with {self.process.returncode}")
        return json.loads(text)


def milliseconds(micros: int | None) -> str:
    return "-" if micros is None else f"{micros / 1000:.1f} ms"


def finish(name: str, report: dict[str, Any], problems: list[str]) -> None:
    """Writes the report, and ends with 1 if something is not as it must be."""
    path = ROOT / "target" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], check=False, text=True, stdout=subprocess.PIPE).stdout.strip()
    path.write_text(json.dumps({"commit": commit, "cores": len(os.sched_getaffinity(0)), "problems": problems, **report}, indent=1) + "\n")
    print(f"written to {path}")
    for problem in problems:
        print(f"NOT MET: {problem}")
    sys.exit(1 if problems else 0)
