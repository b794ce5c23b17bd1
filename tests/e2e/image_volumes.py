"""A model that comes in an OCI image of its own, mounted as a volume: it serves where the nodes' container runtime has such
volumes, and the tier says what is missing where it has not.

None of `discover`'s: `make image-volumes` runs `Served` on a cluster with the containerd of `tests/cluster/run containerd`,
and `Lacking` on one with Debian's.
"""

from __future__ import annotations

import json
import os
import unittest

from kube import apply, run, wait_for
from plot import FOLDER
from portfolio import delete_namespace, demo, kubectl
from traffic import Client, rows

NAMESPACE = "e2e-image-volumes"
# As tests/engine/build-model has it: at this path there is no file in the engine's own image.
MODEL = "weights/smollm2-135m-instruct.gguf"
MANIFEST = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: compact, namespace: {NAMESPACE}}}
spec:
  class: Small
  owner: ml-platform
  model: {{name: smollm2-135m-instruct, contextTokens: 8192, capabilities: [Chat, JSONSchema, Logprobs]}}
  pool:
    engine: LlamaCpp
    image: smallfirst.local/llama-server:dev
    modelFrom: {{image: {{reference: "smallfirst.local/smollm2-135m-instruct:dev", path: {MODEL}}}}}
    perReplica: {{concurrency: 2}}
    resources: {{requests: {{cpu: 20m, memory: 256Mi}}}}
    rollout: {{progressDeadline: 60s}}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {{name: front, namespace: {NAMESPACE}}}
spec:
  router: {{replicas: 1}}
  anonymous: {{}}
  workloads: [{{name: all, owner: ml-platform, risk: Low, tierRef: {{name: compact}}}}]
  default: {{workload: all}}
"""


def tier() -> dict:
    return json.loads(kubectl("get", "mt", "compact", "-n", NAMESPACE, "-o", "json"))


def condition(kind: str) -> dict:
    return next((each for each in tier().get("status", {}).get("conditions", []) if each["type"] == kind), {})


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        archive = str(FOLDER / "model.tar")
        run(str(demo.ROOT / "tests/engine/build-model"), "--output", archive)
        run(str(demo.ROOT / "tests/cluster/run"), "image", "import", "--run-dir", os.environ["E2E_RUN_DIR"], archive)
        demo.install()
        runtime = kubectl("get", "nodes", "-o", "jsonpath={.items[0].status.nodeInfo.containerRuntimeVersion}")
        print(f"\n  on {runtime}", flush=True)
        apply(MANIFEST)
        cls.addClassCleanup(delete_namespace, NAMESPACE)


class Served(Case):
    def test_a_model_in_an_image_serves(self) -> None:
        took = wait_for("the tier is Ready", 90, lambda: condition("Ready").get("status") == "True")
        print(f"  the tier is Ready after {took:.1f} s")
        pod = json.loads(kubectl("get", "pods", "-n", NAMESPACE, "-l", "smallfirst.dev/tier=compact", "-o", "json"))["items"][0]
        self.assertEqual([each["image"] for each in pod["spec"]["volumes"] if "image" in each], [{"reference": "smallfirst.local/smollm2-135m-instruct:dev", "pullPolicy": "IfNotPresent"}])
        # The engine's image has no shell.
        seen = kubectl("exec", "-n", NAMESPACE, pod["metadata"]["name"], "--", "/usr/bin/python3", "-c", 'print(open("/proc/mounts").read())')
        mounts = [line.split()[1:4] for line in seen.splitlines() if " /models" in line]
        print(f"  {' '.join(mounts[0])[:60]}...")
        self.assertEqual([(each[0], each[2].split(",")[0]) for each in mounts], [("/models", "ro")])
        kubectl("rollout", "status", "-n", NAMESPACE, "deployment/front-router", "--timeout=60s")
        address = kubectl("get", "service", "-n", NAMESPACE, "front-router", "-o", "jsonpath={.spec.clusterIP}")
        client, replies = Client(f"http://{address}/v1", "none"), []
        wait_for("a first answer", 30, lambda: not client.ask("any", rows("intents-frontier.jsonl")[0]).error)
        for row in rows("intents-frontier.jsonl")[:10]:
            replies.append(client.ask("any", row))
        self.assertEqual([reply.error for reply in replies if reply.error], [])
        self.assertTrue(all(reply.steps.startswith("compact") for reply in replies), [reply.steps for reply in replies])
        right = sum(reply.correct for reply in replies)
        print(f"  {len(replies)} requests answered through the router by it, {right} with the right intent")
        # What a model of this size gets right, and one that was not read would not.
        self.assertGreaterEqual(right, 3)


class Lacking(Case):
    def test_a_tier_says_what_its_nodes_lack(self) -> None:
        took = wait_for("the tier is Stalled", 150, lambda: condition("Stalled").get("status") == "True")
        stalled = condition("Stalled")
        print(f"  after {took:.0f} s the tier says: {stalled['message']}")
        self.assertEqual(stalled["reason"], "ProgressDeadlineExceeded")
        self.assertIn("container runtime with OCI image volumes", stalled["message"])
        self.assertEqual(condition("Ready")["message"], stalled["message"])
        waiting = "{.items[0].status.containerStatuses[0].state.waiting}"
        print(f"  its pod says: {kubectl('get', 'pods', '-n', NAMESPACE, '-l', 'smallfirst.dev/tier=compact', '-o', f'jsonpath={waiting}')}")
