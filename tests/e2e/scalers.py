"""Who scales a Deployment, in the order in which the API server stored it: each change is seen, none is polled for."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass
from typing import Any

from kube import NAMESPACE

AUTOSCALERS = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"
SCALED_OBJECTS = "/apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects"
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"


@dataclass(frozen=True)
class Change:
    # One counter of all kinds: they are in one etcd.
    version: int
    gone: bool
    kind: str
    name: str
    # What it scales, and for whom it was made.
    target: str
    owner: str
    replicas: int | None

    @property
    def scaler(self) -> str:
        """A ScaledObject and the HorizontalPodAutoscaler that KEDA makes for it are one."""
        return f"ScaledObject {self.name}" if self.kind == "ScaledObject" else self.owner or f"{self.kind} {self.name}"


def change(event: dict[str, Any]) -> Change:
    body = event["object"]
    meta, spec = body["metadata"], body["spec"]
    owner = next((f"ScaledObject {ref['name']}" for ref in meta.get("ownerReferences", []) if ref["kind"] == "ScaledObject"), "")
    target = spec.get("scaleTargetRef", {}).get("name", "")
    version, gone = int(meta["resourceVersion"]), event["type"] == "DELETED"
    return Change(version, gone, body["kind"], meta["name"], target, owner, spec.get("replicas"))


def in_turn(changes: list[Change], target: str) -> tuple[list[str], list[str]]:
    """Who scaled a target, one after the other; and every moment at which there were two."""
    present: dict[tuple[str, str], str] = {}
    turns: list[str] = []
    two: list[str] = []
    for each in sorted(changes, key=lambda each: each.version):
        if each.target != target:
            continue
        if each.gone:
            present.pop((each.kind, each.name), None)
        else:
            present[each.kind, each.name] = each.scaler
        scaling = sorted(set(present.values()))
        if len(scaling) > 1:
            two.append(f"at {each.version}: {' and '.join(scaling)}")
        elif scaling and turns[-1:] != scaling:
            turns += scaling
    return turns, two


def replicas(changes: list[Change], deployment: str) -> list[int]:
    """What a Deployment was asked to have, each number once in a row."""
    found: list[int] = []
    for each in sorted(changes, key=lambda each: each.version):
        if each.kind == "Deployment" and each.name == deployment and each.replicas is not None and found[-1:] != [each.replicas]:
            found.append(each.replicas)
    return found


class Watch:
    """Follows kinds, each from when it is asked to."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self.namespace = namespace
        self.changes: list[Change] = []
        self.watching: dict[str, tuple[subprocess.Popen[str], threading.Thread]] = {}
        # Watches that ended before they were told to.
        self.ended: list[str] = []
        self.stopping = False

    def follow(self, path: str) -> None:
        url = path.format(self.namespace) + "?watch=true"
        kubectl = subprocess.Popen(["kubectl", "get", "--raw", url], stdout=subprocess.PIPE, text=True)
        thread = threading.Thread(target=self.read, args=(path, kubectl))
        self.watching[path] = (kubectl, thread)
        thread.start()

    def read(self, path: str, kubectl: subprocess.Popen[str]) -> None:
        for line in kubectl.stdout or ():
            event = json.loads(line)
            if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                self.changes.append(change(event))
        if not self.stopping and path in self.watching:
            self.ended.append(path)

    def leave(self, path: str) -> None:
        """The kind is about to go."""
        kubectl, thread = self.watching.pop(path)
        kubectl.terminate()
        thread.join()

    def stop(self) -> None:
        self.stopping = True
        for path in list(self.watching):
            self.leave(path)
