"""Three disturbances under load, each with its count of failed requests."""

from __future__ import annotations

import time
import urllib.request

from kube import NAMESPACE, apply, get, kubectl, pod_ips, wait_for
from traffic import Client, Load

ROUTERS = "smallfirst.dev/policy=assistants"


def settle(load: Load, seconds: float) -> None:
    """Let the load run until it has seen some replies and the time has passed."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        time.sleep(0.1)


def outcome(title: str, load: Load, more: str = "") -> int:
    print(f"  {title}: {len(load.replies)} requests, {len(load.failed)} failed{more}", flush=True)
    for reply in load.failed[:3]:
        print(f"    {reply.error}")
    return len(load.failed)


def frontier_gone(client: Client, asked: list) -> int:
    with Load(client, "intent", asked) as load:
        settle(load, 3)
        kubectl("scale", "-n", NAMESPACE, "deployment/frontier", "--replicas=0")
        settle(load, 12)
        kubectl("scale", "-n", NAMESPACE, "deployment/frontier", "--replicas=1")
        wait_for("the frontier is back", 60, lambda: bool(pod_ips("app=frontier")))
        settle(load, 3)
    best = sum(reply.outcome == "best-answer" for reply in load.replies)
    return outcome("the frontier is scaled to zero for 12 s", load, f"; {best} answered with the best small answer")


def small_pod_deleted(client: Client, asked: list) -> int:
    selector = "smallfirst.dev/tier=compact"
    wanted = len(pod_ips(selector))
    with Load(client, "intent", asked) as load:
        settle(load, 3)
        victim = get("pods", selector=selector)["items"][0]["metadata"]["name"]
        kubectl("delete", "pod", "-n", NAMESPACE, victim, "--wait=false")
        settle(load, 2)
        took = wait_for("the pod is replaced", 120, lambda: len(pod_ips(selector)) >= wanted)
        settle(load, 2)
    return outcome(f"pod {victim} is deleted (replaced after {took + 2:.1f} s)", load)


def table_hash(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}:9090/table", timeout=2) as reply:
        return reply.headers.get("x-smallfirst-table-hash") or str(hash(reply.read()))


def threshold_changed(client: Client, asked: list, manifest: str, changed: str) -> int:
    routers = pod_ips(ROUTERS)
    before = {address: table_hash(address) for address in routers}
    with Load(client, "intent", asked) as load:
        settle(load, 2)
        begin = time.monotonic()
        apply(changed)
        applied = time.monotonic()
        waiting = set(routers)
        while waiting and time.monotonic() - begin < 30:
            waiting = {address for address in waiting if table_hash(address) == before[address]}
            time.sleep(0.002)
        obeyed = time.monotonic()
        settle(load, 3)
        apply(manifest)
    if waiting:
        print(f"    routers that did not obey within 30 s: {', '.join(sorted(waiting))}")
    failed = outcome(
        "a threshold is changed with kubectl apply",
        load,
        f"; {len(routers)} routers obeyed {1000 * max(0.0, obeyed - applied):.0f} ms after kubectl returned "
        f"({1000 * (obeyed - begin):.0f} ms after it was called)",
    )
    return failed + len(waiting)
