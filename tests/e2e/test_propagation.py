"""From `kubectl apply` of a changed threshold to the first request that is routed by it."""

from __future__ import annotations

import re
import threading
import time

import main as demo
import openai
from kube import apply, wait_for
from portfolio import Case, delete_namespace, kubectl
from traffic import rows

CHANGES = 50
# Goal: 99 of 100 changes within half a second. Of 50, that is all.
WITHIN = 0.5

# The demo's stand-in waits as a provider does; here it answers at once, so that requests begin often.
FAST = '[--first-token, 5ms, --tokens-per-second, "0", --requests-per-minute, "0", --tokens-per-minute, "0"]'
NAMESPACE = "e2e-change"
PATH = """
apiVersion: smallfirst.dev/v1alpha1
kind: EscalationPath
metadata: {{name: changing, namespace: e2e-change}}
spec:
  owner: ml-platform
  steps:
  - name: compact
    tierRef: {{name: compact}}
    accept:
    - confidence: {{measure: MeanLogprob, scope: All, atLeast: "{threshold}"}}
  - {{name: frontier, tierRef: {{name: frontier}}}}
"""
POLICY = """
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: changing, namespace: e2e-change}
spec:
  anonymous: {}
  router: {replicas: 1}
  workloads:
  - {name: all, owner: ml-platform, risk: Low, pathRef: {name: changing}}
  default: {workload: all}
"""
# Any answer passes the first, none the second.
THRESHOLDS = ("-99", "1")


class Traffic:
    """Short requests one after another: when each began, and whether it escalated."""

    def __init__(self, url: str) -> None:
        self.sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
        self.text = rows("intents-frontier.jsonl")[0]["text"]
        self.seen: list[tuple[float, bool]] = []
        self.failed: list[str] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def ask(self) -> bool:
        raw = self.sdk.chat.completions.with_raw_response.create(
            model="any", max_tokens=1, temperature=0, messages=[{"role": "user", "content": self.text}]
        )
        return ":escalated" in raw.headers.get("x-smallfirst-steps", "")

    def work(self) -> None:
        while not self.stop.is_set():
            # Leaves the machine time for what is measured.
            time.sleep(0.01)
            begin = time.monotonic()
            try:
                self.seen.append((begin, self.ask()))
            except openai.APIError as error:
                self.failed.append(str(error))

    def __enter__(self) -> Traffic:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(30)

    def first(self, after: float, escalated: bool) -> float:
        """When the first request after `after` began that was routed so."""
        limit = time.monotonic() + 20
        while time.monotonic() < limit:
            found = [begin for begin, how in list(self.seen) if begin >= after and how == escalated]
            if found:
                return min(found)
            time.sleep(0.005)
        raise AssertionError("the change was not obeyed within 20 s")


def setting() -> str:
    """Tiers of a namespace of its own: the sample's compact one, and a stand-in that answers at once."""
    sample = (demo.ROOT / "deploy/samples/quickstart.yaml").read_text("utf-8").split("\n---\n")
    standin = demo.replace((demo.HERE / "frontier.yaml").read_text("utf-8"), '[--requests-per-minute, "1200", --tokens-per-minute, "600000", --max-concurrent, "8"]', FAST)
    parts = [*sample[:2], standin, PATH.format(threshold=THRESHOLDS[0]), POLICY]
    moved = re.sub(r"namespace: ai\b", f"namespace: {NAMESPACE}", "\n---\n".join(parts))
    return demo.replace(moved, "http://frontier.ai.svc", f"http://frontier.{NAMESPACE}.svc")


class Propagation(Case):
    def test_threshold(self) -> None:
        apply(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}\n")
        self.addCleanup(delete_namespace, NAMESPACE)
        apply(demo.secret("frontier-key", "token", demo.FRONTIER_KEY).replace("namespace: ai", f"namespace: {NAMESPACE}"))
        apply(setting())
        kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "mt/compact", "rp/changing", "--timeout=90s")
        kubectl("rollout", "status", "-n", NAMESPACE, "deployment/frontier", "--timeout=60s")
        called, returned = [], []
        with Traffic(f"http://{service(NAMESPACE)}") as traffic:
            wait_for("traffic", 30, lambda: len(traffic.seen) > 5)
            for change in range(CHANGES):
                escalates = change % 2 == 0
                begin = time.monotonic()
                apply(PATH.format(threshold=THRESHOLDS[escalates]))
                end = time.monotonic()
                obeyed = traffic.first(begin, escalates)
                called.append(obeyed - begin)
                returned.append(max(0.0, obeyed - end))
                # Until requests that began before have ended.
                time.sleep(0.3)
        self.assertEqual(traffic.failed, [])
        for name, values in (("kubectl was called", called), ("kubectl returned", returned)):
            ranked = sorted(values)
            print(f"\n  {CHANGES} changes, first request routed so after {name}: median {1000 * ranked[CHANGES // 2]:.0f} ms, largest {1000 * ranked[-1]:.0f} ms")
        self.assertLess(max(returned), WITHIN)


def service(namespace: str) -> str:
    return kubectl("get", "service", "-n", namespace, "changing-router", "-o", "jsonpath={.spec.clusterIP}")
