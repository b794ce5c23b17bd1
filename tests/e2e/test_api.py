"""What people see with kubectl: columns, explain, and restricted pods."""

from __future__ import annotations

import json
from typing import Any

from portfolio import NAMESPACE, Case, kubectl

KINDS = {"ModelTier": "modeltiers", "EscalationPath": "escalationpaths", "RoutingPolicy": "routingpolicies"}
COLUMNS = {
    "ModelTier": ["NAME", "CLASS", "MODEL", "READY", "REASON", "REPLICAS", "FLOOR", "COST/H", "AGE"],
    "EscalationPath": ["NAME", "STEPS", "READY", "REASON", "AGE"],
    "RoutingPolicy": ["NAME", "WORKLOADS", "ROUTERS", "PROGRAMMED", "COST/TXN", "READY", "REASON", "AGE"],
}


def schemas() -> dict[str, Any]:
    """The three kinds' schemas, as the API server publishes them."""
    document = json.loads(kubectl("get", "--raw", "/openapi/v3/apis/smallfirst.dev/v1alpha1"))
    found = {}
    for schema in document["components"]["schemas"].values():
        for kind in schema.get("x-kubernetes-group-version-kind", []):
            if kind["kind"] in KINDS:
                found[kind["kind"]] = schema
    return found


def fields(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
    """Every field: its path and its schema. `template` is the pod's, and `metadata` Kubernetes' own."""
    while "items" in schema:
        schema = schema["items"]
    if isinstance(schema.get("additionalProperties"), dict):
        yield from fields(schema["additionalProperties"], path)
    for name, inner in schema.get("properties", {}).items():
        if path or name in ("spec", "status"):
            yield (*path, name), inner
            yield from fields(inner, (*path, name))


class Api(Case):
    def test_columns(self) -> None:
        table = kubectl("get", "mt,esc,rp", "-n", NAMESPACE)
        headers = [line.split() for line in table.splitlines() if line.startswith("NAME")]
        self.assertEqual(headers, list(COLUMNS.values()))
        for line in table.splitlines():
            if "/" in line and not line.startswith("NAME"):
                self.assertIn(" True ", line)

    def test_explain_has_text_at_every_field(self) -> None:
        count = 0
        for kind, schema in schemas().items():
            for path, inner in fields(schema):
                count += 1
                name = ".".join((KINDS[kind], *path))
                self.assertTrue(inner.get("description", "").strip(), name)
                # kubectl shows the text of an object's fields with the object.
                if "properties" in inner or "properties" in inner.get("items", {}):
                    text = kubectl("explain", name)
                    self.assertIn(f"KIND:       {kind}", text)
                    self.assertNotIn("<no description>", text, name)
                    self.assertNotIn("<empty>", text, name)
        self.assertGreater(count, 100)

    def test_pods_are_restricted(self) -> None:
        pods = {}
        for namespace in (NAMESPACE, "smallfirst-system"):
            labels = json.loads(kubectl("get", "namespace", namespace, "-o", "json"))["metadata"]["labels"]
            self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")
            for pod in json.loads(kubectl("get", "pods", "-n", namespace, "-o", "json"))["items"]:
                pods[pod["metadata"]["name"]] = pod
        for prefix, count in (("smallfirst-", 1), ("assistants-router-", 2), ("compact-pool-", 2)):
            running = [pod for name, pod in pods.items() if name.startswith(prefix) and pod["status"]["phase"] == "Running"]
            self.assertGreaterEqual(len(running), count, prefix)
            for pod in running:
                for container in pod["spec"]["containers"]:
                    self.assertTrue(container["securityContext"]["readOnlyRootFilesystem"])
        # Engines get no token of the API server; the operator and the routers need one.
        for name, pod in pods.items():
            if name.startswith("compact-pool-"):
                self.assertFalse(pod["spec"]["automountServiceAccountToken"])
