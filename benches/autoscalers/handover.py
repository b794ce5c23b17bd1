"""The autoscaler of a pool changes under load: HorizontalPodAutoscaler, External, HorizontalPodAutoscaler. The audit log says
whether a replica was ever taken away that whoever scaled had not given up.

`make handover` runs it on a cluster of its own. The series goes to target/e2e/handover.json, drawn in handover.svg beside it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit import Window, taken_away
from kube import wait_for
from peak import MANIFEST, MOST, POOL, Peak, Seen, load, read, serves
from plot import FOLDER, draw
from portfolio import NAMESPACE, get, kubectl
from traffic import Client

# Requests a second, and for how many seconds each autoscaler is alone.
RATE, ALONE = 5.0, 60
DEPLOYMENT = f"{POOL}-pool"


def replicas() -> int:
    return get("deployment", DEPLOYMENT)["spec"]["replicas"]


def choose(autoscaler: str) -> None:
    patch = json.dumps({"spec": {"pool": {"scaling": {"autoscaler": autoscaler}}}})
    kubectl("patch", "modeltier", POOL, "-n", NAMESPACE, "--type=merge", "-p", patch)


def autoscalers() -> list[dict[str, Any]]:
    return get("hpa", selector=f"smallfirst.dev/tier={POOL}")["items"]


def reads() -> bool:
    """Whether there is an autoscaler, and it has its metric."""
    return any(read(autoscaler) for autoscaler in autoscalers())


def scale(wanted: int) -> None:
    kubectl("scale", "modeltier", POOL, "-n", NAMESPACE, f"--replicas={wanted}")
    wait_for(f"{wanted} replicas", 20, lambda: replicas() == wanted)


class Hands(Peak):
    """Autoscalers of a pool, one after the other."""

    def by_hand(self) -> None:
        """`/scale` takes over what is there, and is then obeyed."""
        choose("External")
        wait_for("the autoscaler is gone", 30, lambda: not autoscalers())
        wait_for("/scale has the replicas", 30, lambda: get("mt", POOL)["spec"]["pool"].get("replicas", 1) == replicas())
        present = replicas()
        time.sleep(ALONE / 3)
        self.assertEqual(replicas(), present, "nobody asked for another number")
        scale(present - 1 if present == MOST else present + 1)
        time.sleep(ALONE / 3)
        scale(present)
        time.sleep(ALONE / 3)

    def by_autoscaler(self) -> None:
        choose("HorizontalPodAutoscaler")
        wait_for("the autoscaler reads its metric", 60, reads)
        time.sleep(ALONE)

    def under_load(self, client: Client, steps: tuple[Callable[[], None], ...], drawn: str, folder: Path = FOLDER) -> Seen:
        """Requests and a watch, while one takes over after the other."""
        seen, ending = Seen(), threading.Event()
        phases = iter(lambda: None if ending.is_set() else (RATE, 1), None)
        clients = threading.Thread(target=load, args=(seen, client, 11, phases))
        watcher = threading.Thread(target=seen.watch, args=(ending,))
        try:
            for thread in (clients, watcher):
                thread.start()
            wait_for("more than one replica", 120, lambda: replicas() > 1)
            for take_over in steps:
                print(f"  {time.monotonic() - seen.begin:.0f} s: {take_over.__name__}, {replicas()} replicas", flush=True)
                take_over()
        finally:
            ending.set()
            clients.join()
            watcher.join()
            draw(drawn, seen.series, seen.answers, ((RATE, int(time.monotonic() - seen.begin)),), folder)
        print(f"  {len(seen.answers)} requests, {len(seen.failed)} failed")
        return seen

    def nothing_was_taken_away(self, window: Window, present: int, writes: int) -> None:
        """By the audit log, since there were so many replicas; by so many writes at least."""
        history = window.history(NAMESPACE, ("modeltiers", POOL), ("deployments", DEPLOYMENT))
        for write in history:
            if write.replicas is not None:
                print(f"  {write.agent} to {write.resource}: {write.replicas}")
        self.assertEqual(taken_away(history, present), [])
        self.assertGreaterEqual(len([write for write in history if write.replicas is not None]), writes, history)


class HandOver(Hands):
    def test_no_replica_is_taken_away_that_was_not_given_up(self) -> None:
        serves("metricsApi", True)
        self.addCleanup(serves, "metricsApi", False)
        client = self.start(MANIFEST)
        window, present = Window(), replicas()
        seen = self.under_load(client, (self.by_autoscaler, self.by_hand, self.by_autoscaler), "handover")
        self.none_failed(seen)
        # By the autoscaler, the hand-over and kubectl.
        self.nothing_was_taken_away(window, present, 4)
