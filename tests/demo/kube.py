"""kubectl and helm as a person would call them; every call has a timeout and fails with its own words."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

NAMESPACE = "ai"


class Failure(Exception):
    """What ends the demo, in words for people."""


def run(*command: str, stdin: str | None = None, timeout: float = 120) -> str:
    try:
        done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as late:
        raise Failure(f"{' '.join(command[:4])}: no end after {timeout:.0f} s") from late
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def kubectl(*arguments: str, stdin: str | None = None, timeout: float = 120) -> str:
    return run("kubectl", *arguments, stdin=stdin, timeout=timeout)


def get(kind: str, name: str = "", selector: str = "") -> Any:
    arguments = ["get", kind, "-n", NAMESPACE, "-o", "json"]
    arguments += [name] if name else []
    arguments += ["-l", selector] if selector else []
    return json.loads(kubectl(*arguments))


def apply(manifest: str) -> None:
    kubectl("apply", "-f", "-", stdin=manifest)


def wait_for(what: str, seconds: float, seen: Callable[[], bool]) -> float:
    """Poll until `seen`; the seconds it took."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        if seen():
            return time.monotonic() - begin
        time.sleep(0.2)
    raise Failure(f"{what}: not after {seconds:.0f} s")


def ready(kind: str, name: str) -> bool:
    conditions = get(kind, name).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def pod_ips(selector: str) -> list[str]:
    """Addresses of the running, ready pods of a selector."""
    return [
        pod["status"]["podIP"]
        for pod in get("pods", selector=selector)["items"]
        if not pod["metadata"].get("deletionTimestamp")
        and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
    ]
