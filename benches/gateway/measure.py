"""One turn of a system: it is started before the fast backend, measured, stopped, then again before one that streams.

Every figure stands for itself: one that can't be had is left out and told, the rest of the turn goes on.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from processes import Failed, Place, cpu_seconds, listening, memory_mib, port, session
from systems import KEY, Backend, System, request

# Requests a second of the open loop.
RATE = 1000
# Streams at a time.
STREAMS = 4
# Python with many modules is slow to start, twice so on two workers.
READY_SECONDS = 120


@dataclass
class Rig:
    """What all turns share."""

    folder: Path
    fast: Backend
    mock: Backend
    load: Path
    seconds: int


def reason(error: Exception) -> str:
    return str(error) if isinstance(error, Failed) else f"{type(error).__name__}: {error}"


@dataclass
class Turn:
    """What came of it: figures by name, and why others are missing."""

    figures: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def part(self, name: str, measure: Callable[[], dict[str, float]]) -> None:
        try:
            self.figures |= measure()
        except Exception as error:  # whatever it is: a run of twenty minutes goes on
            self.missing.append(f"{name}: {reason(error)}")


SCRIPT = """
wrk.method = 'POST'
wrk.headers['content-type'] = 'application/json'
wrk.headers['authorization'] = 'Bearer %s'
wrk.body = [==[%s]==]
done = function(summary, latency, requests)
  local e = summary.errors
  local failed = e.connect + e.read + e.write + e.status + e.timeout
  io.write(string.format('\\nRESULT {"requests": %%d, "us": %%d, "failed": %%d, "p50": %%d}\\n',
    summary.requests, summary.duration, failed, latency:percentile(50)))
end
"""


def program(command: list[str], seconds: float) -> str:
    try:
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"{Path(command[0]).name} was not done after {seconds:.0f} s") from None
    if done.returncode != 0:
        raise Failed(f"{Path(command[0]).name}: {done.stdout.strip()[-300:]}")
    return done.stdout


def closed_loop(system: System, place: Place, connections: int, seconds: int, size: int = 1024) -> tuple[float, float]:
    """Requests a second and the median latency in microseconds; any answer that is not 200 is a failure."""
    script = place.folder / "request.lua"
    script.write_text(SCRIPT % (KEY, request(system.model, size)))
    url = f"http://127.0.0.1:{place.listen}{system.path}"
    text = program(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s", "-s", str(script), url], seconds + 30
    )
    lines = [line for line in text.splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise Failed(f"wrk said something else: {text[-300:]}")
    result = json.loads(lines[0].removeprefix("RESULT "))
    if result["failed"] or not result["requests"]:
        raise Failed(f"{result['failed']} of {result['requests']} requests were not answered with 200")
    return result["requests"] * 1e6 / result["us"], result["p50"]


def loaded(rig: Rig, system: System, place: Place, *flags: object) -> dict:
    """What our own load generator says."""
    url = f"http://127.0.0.1:{place.listen}{system.path}"
    command = [
        rig.load, "--url", url, "--key", KEY, "--model", system.model, "--seconds", rig.seconds, "--timeout-ms", 5000, *flags,
    ]  # fmt: skip
    done = json.loads(program(list(map(str, command)), rig.seconds + 30))
    if done["failed"] or not done["ok"]:
        raise Failed(f"{done['failed']} of {done['sent']} requests failed: {done['failed_by_kind']}")
    return done


def ready(system: System, place: Place, process: subprocess.Popen[bytes] | None, *, stream: bool) -> None:
    """Waits until it answers as the backend does: a router may first have to see that its worker lives."""
    url = f"http://127.0.0.1:{place.listen}{system.path}"
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    limit, last = time.monotonic() + READY_SECONDS, ""
    while time.monotonic() < limit:
        if process and process.poll() is not None:
            raise Failed(f"it ended with {process.returncode}: {place.complaint()}")
        try:
            asked = urllib.request.Request(url, request(system.model, stream=stream).encode(), headers)
            with urllib.request.urlopen(asked, timeout=10) as answer:
                text = answer.read().decode(errors="replace")
            # The last of the tokens of the mock and of the static reply.
            if (" .63" if stream else " word63") in text:
                return
            last = f"another answer: {text[:200]}"
        except urllib.error.HTTPError as error:
            last = f"{error.code}: {error.read(200).decode(errors='replace')}"
        except OSError as error:
            last = str(error)
        time.sleep(0.1)
    raise Failed(f"no good answer after {READY_SECONDS} s: {last} ({place.complaint()})")


def started(stack: ExitStack, rig: Rig, system: System, to: Backend) -> tuple[Place, subprocess.Popen[bytes] | None]:
    """Starts a system in an empty folder."""
    folder = rig.folder / system.name
    folder.mkdir()
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    if system.start is None:
        (folder / "log").touch()
        return Place(stack, folder, to.port), None
    place = Place(stack, folder, port())
    process = system.start(place, to)
    listening(process, place.listen, place, READY_SECONDS)
    return place, process


def plain(turn: Turn, rig: Rig, system: System) -> None:
    with ExitStack() as stack:
        place, process = started(stack, rig, system, rig.fast)
        ready(system, place, process, stream=False)

        def warm() -> dict[str, float]:
            closed_loop(system, place, 64, 1)
            return {}

        def at(connections: int) -> dict[str, float]:
            rps, p50 = closed_loop(system, place, connections, rig.seconds)
            return {f"rps_c{connections}": rps, f"p50_us_c{connections}": p50}

        def costs(pids: list[int], before: float) -> dict[str, float]:
            used = cpu_seconds(pids) - before
            return {"cpu_us_c64": used * 1e6 / (turn.figures["rps_c64"] * rig.seconds), "rss_mib": memory_mib(pids)}

        def open_loop() -> dict[str, float]:
            if turn.figures.get("rps_c64", 0) < 1.2 * RATE:
                raise Failed("it is too slow for it")
            done = loaded(rig, system, place, "--rate", RATE, "--prompt-bytes", 930)
            return {"p50_us_1000": done["latency_us"]["p50"], "p99_us_1000": done["latency_us"]["p99"]}

        turn.part("warming up", warm)
        for connections in (1, 16):
            turn.part(f"{connections} connections", lambda connections=connections: at(connections))
        pids = session(process.pid) if process else []
        before = cpu_seconds(pids)
        turn.part("64 connections", lambda: at(64))
        if pids and "rps_c64" in turn.figures:
            turn.part("CPU and memory", lambda: costs(pids, before))
        turn.part(f"{RATE} requests a second", open_loop)
        if system.bodies:
            for name, size in (("100kib", 100 << 10), ("1mib", 1 << 20)):
                turn.part(
                    f"requests of {name}",
                    lambda name=name, size=size: {f"rps_{name}_c16": closed_loop(system, place, 16, rig.seconds, size)[0]},
                )


def streams(turn: Turn, rig: Rig, system: System) -> None:
    def first_token() -> dict[str, float]:
        with ExitStack() as stack:
            place, process = started(stack, rig, system, rig.mock)
            ready(system, place, process, stream=True)
            done = loaded(rig, system, place, "--stream", "--untagged", "--connections", STREAMS, "--prompt-bytes", 930)
            return {"ttft_p50_us": done["first_token_us"]["p50"], "ttft_p99_us": done["first_token_us"]["p99"]}

    turn.part("streams", first_token)


def take(rig: Rig, system: System) -> Turn:
    """Measures a system once."""
    turn = Turn()
    try:
        plain(turn, rig, system)
    except Exception as error:  # as above
        turn.missing.append(reason(error))
    # A judged stream is held until it is judged: its first token says nothing of the router.
    if not (system.long or system.whole) and turn.figures:
        streams(turn, rig, system)
    return turn
