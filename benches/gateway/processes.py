"""Processes that a run starts: each with a log, a session of its own, and an end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A system, or one of its measurements, that is left out; the others go on."""


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def session(pid: int) -> list[int]:
    """A process and all that it started: workers, and what those started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name may hold spaces: fields are counted from its closing parenthesis.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def cpu_seconds(pids: list[int]) -> float:
    def of(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    return sum(map(of, pids)) / TICK


def memory_mib(pids: list[int]) -> float:
    """Proportional set size: what workers share counts once."""
    texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) for text in texts) / 1024


def end(process: subprocess.Popen[bytes]) -> None:
    """Asks it to stop, then makes it and all that it started."""
    all_ = session(process.pid)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
    for pid in {*all_, *session(process.pid)} - {process.pid}:
        # A number is used again only after all others were: those that ended are not somebody else's yet.
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@dataclass
class Place:
    """Where a system runs: its folder, the port that it listens on, what ends it."""

    stack: ExitStack
    folder: Path
    listen: int

    def spawn(self, *command: object, output: str = "log", environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts a program of its folder; `output` is the file for what it writes, `log` for its errors."""
        words = [str(word) for word in command]
        with (self.folder / output).open("ab") as out, (self.folder / "log").open("ab") as log:
            try:
                process = subprocess.Popen(
                    words, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=log,
                    env={**os.environ, **(environment or {})}, start_new_session=True,
                )  # fmt: skip
            except FileNotFoundError:
                raise Failed(f"{words[0]} is not installed: run 'make bench-deps'") from None
        self.stack.callback(end, process)
        return process

    def complaint(self) -> str:
        """The last that it wrote of itself."""
        lines = (self.folder / "log").read_text(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-3:])[-400:] or "it wrote nothing"


def listening(process: subprocess.Popen[bytes], number: int, place: Place, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise Failed(f"it ended with {process.returncode}: {place.complaint()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                return
        time.sleep(0.05)
    raise Failed(f"nothing listens on port {number} after {seconds:.0f} s: {place.complaint()}")
