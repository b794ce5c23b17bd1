"""Runs `smallfirst simulate` and says what it found, how long it took and how much memory it had."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "simulate"
PORTFOLIO, SCENARIO = EXAMPLE / "portfolio.yaml", EXAMPLE / "scenario.yaml"
SAMPLE = ROOT / "tests" / "data" / "azure-conv-1000.csv"


def arguments(about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--smallfirst", type=Path, required=True, help="the binary")
    parser.add_argument("--output", type=Path, default=ROOT / "target" / "bench", help="folder of what is found")
    return parser


def simulate(binary: Path, folder: Path, name: str, portfolio: str, scenario: str, trace: Path) -> tuple[dict, float, float]:
    """The report, seconds, and MiB of the process at its largest."""
    folder = folder / "simulate" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "portfolio.yaml").write_text(portfolio, "utf-8")
    (folder / "scenario.yaml").write_text(scenario, "utf-8")
    command = [binary, "simulate", folder / "portfolio.yaml", "--scenario", folder / "scenario.yaml"]
    begin = time.monotonic()
    child = subprocess.Popen([*command, "--trace", trace, "--output", folder], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"{name}: {' '.join(map(str, command))} failed")
    return json.loads((folder / "report.json").read_text("utf-8")), seconds, usage.ru_maxrss / 1024


def replaced(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        if old not in text:
            sys.exit(f"the example has changed: {old!r} is not in it")
        text = text.replace(old, new)
    return text


def finish(folder: Path, name: str, found: dict, missed: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**found, "missed": missed}, indent=2) + "\n", "utf-8")
    print(f"written: {path}")
    for problem in missed:
        print(f"MISSED: {problem}")
    sys.exit(1 if missed else 0)
