"""KEDA itself, built from its Go module, scales pools by what this operator tells it: a peak, sleep and waking, and taking over
under load.

`make keda` runs it on a cluster of its own. What was seen goes to target/bench/keda.json, drawn in keda-peak.svg and
keda-handover.svg beside it. KEDA's operator, metrics server and admission webhooks are pods with their own RBAC and
certificates; its CRDs are its own.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import zero
from audit import Window
from handover import ALONE, DEPLOYMENT, Hands, autoscalers, choose, replicas
from kube import Failure, wait_for
from peak import MANIFEST, PHASES, Peak, Seen, read, serves
from portfolio import Case, demo, kubectl
from scalers import AUTOSCALERS, DEPLOYMENTS, SCALED_OBJECTS, Watch, in_turn
from scalers import replicas as numbers

FOLDER = demo.ROOT / "target/bench"
PARTS = ("keda-operator", "keda-metrics-apiserver", "keda-admission")
METRICS = "v1beta1.external.metrics.k8s.io"
BY_HPA = "autoscaler: HorizontalPodAutoscaler"
CYCLES = 6
# For how long the operator calls a tier active after a request; KEDA looks every 30 s, and lets it sleep `idleAfter` later.
ACTIVE = 60
# A pod is made so soon after the first request. KEDA's own look is up to 30 s later: sooner is only its stream.
MADE = 2.0
# So many operators are replaced, and after so many seconds KEDA must listen to the last.
REPLACED, BACK = 3, 5


def cluster(*arguments: str) -> str:
    """The tool says on stderr what takes so long."""
    tool = str(demo.ROOT / "tests/cluster/run")
    return subprocess.run([tool, *arguments], stdout=subprocess.PIPE, text=True, check=True, timeout=7200).stdout


@functools.cache
def manifests() -> str:
    folder = Path(cluster("keda").splitlines()[-1])
    cluster("image", "import", "--run-dir", os.environ["E2E_RUN_DIR"], str(folder / "keda.tar"))
    return str(folder / "keda.yaml")


def install() -> None:
    # Longer than what client-side apply keeps in an annotation.
    kubectl("apply", "--server-side", "-f", manifests())
    for part in PARTS:
        kubectl("rollout", "status", "-n", "keda", f"deployment/{part}", "--timeout=240s", timeout=250)
    kubectl("wait", "--for=condition=Available", f"apiservice/{METRICS}", "--timeout=60s")
    serves("scaler", True)


def none_left() -> bool:
    try:
        return not kubectl("get", "scaledobjects", "-A", "-o", "name")
    except Failure:
        # Nor the kind.
        return True


def remove() -> None:
    """Its operator must see the last ScaledObject go: each has a finalizer of its."""
    wait_for("no ScaledObject", 90, none_left)
    kubectl("delete", "-f", manifests(), "--ignore-not-found", "--timeout=120s", timeout=130)
    serves("scaler", False)


def has_metric() -> bool:
    """Whether KEDA's HorizontalPodAutoscaler has read the metric, from KEDA."""
    return any(read(each) for each in autoscalers() if each["metadata"]["name"].startswith("keda-hpa-"))


def record(part: str, figures: dict[str, Any]) -> None:
    file = FOLDER / "keda.json"
    parts = json.loads(file.read_text()) if file.exists() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(parts | {part: figures}, indent=1))


def latencies(seen: Seen) -> dict[str, Any]:
    took = sorted(seconds for _, seconds in seen.answers)
    figures = {"requests": len(took), "failed": seen.failed, "median": median(took), "p95": took[int(0.95 * len(took))], "longest": took[-1]}
    print(f"  a request took {figures['median']:.2f} s (median), {figures['p95']:.2f} s (p95), at most {figures['longest']:.2f} s")
    return figures


class WithKeda(Case):
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.addClassCleanup(remove)
        install()


class Follows(WithKeda, Peak):
    def test_replicas_follow_a_peak_between_floor_and_ceiling_and_nobody_is_refused(self) -> None:
        client = self.start(demo.replace(MANIFEST, BY_HPA, "autoscaler: KEDA"))
        wait_for("KEDA's autoscaler has its metric", 120, has_metric)
        seen = self.peak(client, "keda-peak", FOLDER)
        steps = numbers_of(seen)
        queue = max(now["queue"] or 0 for now in seen.series)
        print(f"  replicas {steps}; at most {queue} requests waited")
        record("peak", {"phases": PHASES, "replicas": steps, "longestQueue": queue, **latencies(seen)})
        self.followed(seen)


def numbers_of(seen: Seen) -> list[int]:
    found: list[int] = []
    for now in seen.series:
        found += [now["replicas"]] if found[-1:] != [now["replicas"]] else []
    return found


class Sleeps(WithKeda, zero.Sleeper):
    cycles = CYCLES
    awake = ACTIVE + zero.IDLE

    def asleep(self, number: int) -> None:
        """The last two cycles come after operators that were replaced, one after the other: KEDA waits twice as long after
        each stream that broke."""
        if number < CYCLES - 2:
            return
        for _ in range(REPLACED):
            kubectl("rollout", "restart", "-n", "smallfirst-system", "deployment/smallfirst")
            kubectl("rollout", "status", "-n", "smallfirst-system", "deployment/smallfirst", "--timeout=60s")
        time.sleep(BACK)

    def test_a_first_request_waits_for_no_poll_and_none_is_lost(self) -> None:
        self.start(demo.replace(zero.MANIFEST, BY_HPA, "autoscaler: KEDA"))
        cycles = self.sleeps(FOLDER / "keda-zero.json")
        made = [cycle.made for cycle in cycles]
        print(f"  a pod was made {median(made):.2f} s after the first request, at most {max(made):.2f} s")
        record("zero", {"asked": self.asked, "failed": self.failed, "cycles": [asdict(cycle) for cycle in cycles]})
        self.slept(cycles)
        self.assertLessEqual(max(made), MADE)


class TakesOver(Hands):
    """A cluster has one server of external metrics. So its administrator takes the operator's away, installs KEDA, and
    back."""

    watch: Watch

    def by_keda(self) -> None:
        serves("metricsApi", False)
        install()
        self.watch.follow(SCALED_OBJECTS)
        choose("KEDA")
        wait_for("KEDA's autoscaler has its metric", 150, has_metric)
        time.sleep(ALONE)

    def without_keda(self) -> None:
        self.watch.leave(SCALED_OBJECTS)
        remove()
        serves("metricsApi", True)
        self.by_autoscaler()

    def test_no_replica_is_lost_and_there_are_never_two(self) -> None:
        self.addCleanup(serves, "metricsApi", False)
        self.addCleanup(remove)
        serves("metricsApi", True)
        client = self.start(MANIFEST)
        window, present = Window(), replicas()
        self.watch = Watch()
        for kind in (AUTOSCALERS, DEPLOYMENTS):
            self.watch.follow(kind)
        try:
            steps = (self.by_autoscaler, self.by_keda, self.by_hand, self.without_keda)
            seen = self.under_load(client, steps, "keda-handover", FOLDER)
        finally:
            self.watch.stop()
        turns, two = in_turn(self.watch.changes, DEPLOYMENT)
        asked = numbers(self.watch.changes, DEPLOYMENT)
        print(f"  {', '.join(turns)}; replicas {asked}")
        record("handover", {"scalers": turns, "twoAtOnce": two, "replicas": asked, **latencies(seen)})
        self.none_failed(seen)
        self.none_over_quota()
        self.assertEqual(self.watch.ended, [], "watches that did not see everything")
        self.assertEqual(two, [])
        by_us = f"HorizontalPodAutoscaler {DEPLOYMENT}"
        self.assertEqual(turns, [by_us, f"ScaledObject {DEPLOYMENT}", by_us])
        grown = next(i for i, number in enumerate(asked) if number > 1)
        self.assertNotIn(1, asked[grown:], "the replicas were reset")
        # By either autoscaler, the hand-over and kubectl.
        self.nothing_was_taken_away(window, present, 4)
