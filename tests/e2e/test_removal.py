"""Deleting the three resources leaves nothing behind."""

from __future__ import annotations

import json
import re

import main as demo
from kube import apply, wait_for
from portfolio import Case, delete_namespace, kubectl

KINDS = "deployments,controllerrevisions,replicasets,pods,services,endpointslices,poddisruptionbudgets,serviceaccounts,roles,rolebindings,networkpolicies,configmaps,leases"
OURS = ("compact", "frontier", "assistants")


class Removal(Case):
    def left(self) -> list[str]:
        items = json.loads(kubectl("get", KINDS, "-n", "e2e-removal", "-o", "json"))["items"]
        return [f"{each['kind']}/{each['metadata']['name']}" for each in items if each["metadata"]["name"].startswith(OURS)]

    def test_removal(self) -> None:
        apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: e2e-removal, labels: {pod-security.kubernetes.io/enforce: restricted}}\n")
        self.addCleanup(delete_namespace, "e2e-removal")
        manifest = re.sub(r"namespace: ai\b", "namespace: e2e-removal", demo.sample())
        apply(manifest)
        wait_for("router pods", 60, lambda: sum(name.startswith("Pod/assistants-router") for name in self.left()) == 2)
        self.assertIn("ConfigMap/assistants-table", self.left())
        kubectl("delete", "mt,esc,rp", "--all", "-n", "e2e-removal")
        took = wait_for("nothing is left", 60, lambda: not self.left())
        print(f"\n  nothing left {took:.1f} s after kubectl delete returned")
