"""Secrets that change under load: a new key in a mounted Secret, and a new Secret name. No request may fail.

Not one of `discover`'s: `make rotation` runs it, about four minutes.
"""

from __future__ import annotations

import http.client
import json
import re
import threading
import time

import main as demo
from kube import apply, wait_for
from portfolio import Case, delete_namespace, kubectl
from test_propagation import FAST
from traffic import rows

NAMESPACE = "e2e-rotation"
RATE = 200
# Each at its own pace; half of them keep their connection, half make a new one for each request.
WORKERS = 20
BODY = json.dumps({"model": "any", "max_tokens": 1, "messages": [{"role": "user", "content": rows("intents-frontier.jsonl")[0]["text"]}]})
POLICY = """
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {name: rotating, namespace: e2e-rotation}
spec:
  router: {replicas: 2}
  clients:
  - {name: steady, apiKey: {secretKeyRef: {name: steady, key: token}}}
  - {name: rotated, apiKey: {secretKeyRef: {name: SECRET, key: token}}}
  workloads:
  - {name: all, owner: ml-platform, risk: Low, tierRef: {name: frontier}}
  default: {workload: all}
"""


def status(address: str, key: str) -> int:
    """Of one request on a connection of its own."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        return send(connection, key)
    finally:
        connection.close()


def send(connection: http.client.HTTPConnection, key: str) -> int:
    connection.request("POST", "/v1/chat/completions", BODY, {"authorization": f"Bearer {key}", "content-type": "application/json"})
    reply = connection.getresponse()
    reply.read()
    return reply.status


class Load:
    """Requests of the steady client at a rate; what was answered and what failed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.answered = 0
        self.late = 0
        self.failed: list[str] = []
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.work, args=(i,), daemon=True) for i in range(WORKERS)]

    def work(self, number: int) -> None:
        kept = http.client.HTTPConnection(self.address, timeout=20)
        keeps = number % 2 == 0
        due = time.monotonic() + number / RATE
        while not self.stop.is_set():
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            try:
                code = send(kept, "steady") if keeps else status(self.address, "steady")
                problem = "" if code == 200 else f"status {code}"
            except (OSError, http.client.HTTPException) as error:
                problem = f"{'kept' if keeps else 'new'} connection: {error!r}"
                kept.close()
            with self.lock:
                self.answered += not problem
                # The rate is kept on average: what a slow answer delays is made up for.
                self.late += time.monotonic() - due > 1
                if problem:
                    self.failed.append(problem)
            due += WORKERS / RATE
        kept.close()

    def __enter__(self) -> Load:
        self.begin = time.monotonic()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.seconds = time.monotonic() - self.begin
        for thread in self.threads:
            thread.join(30)


def secret(name: str, token: str) -> None:
    apply(demo.secret(name, "token", token).replace("namespace: ai", f"namespace: {NAMESPACE}"))


def pods() -> set[str]:
    return set(kubectl("get", "pods", "-n", NAMESPACE, "-l", "smallfirst.dev/policy=rotating", "-o", "jsonpath={.items[*].metadata.uid}").split())


class Rotation(Case):
    def test_secrets(self) -> None:
        apply(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}\n")
        self.addCleanup(delete_namespace, NAMESPACE)
        for name, token in (("frontier-key", demo.FRONTIER_KEY), ("steady", "steady"), ("rotated", "first")):
            secret(name, token)
        sample = (demo.ROOT / "deploy/samples/quickstart.yaml").read_text("utf-8").split("\n---\n")
        standin = demo.replace((demo.HERE / "frontier.yaml").read_text("utf-8"), '[--requests-per-minute, "1200", --tokens-per-minute, "600000", --max-concurrent, "8"]', FAST[:-1] + ', --max-concurrent, "0"]')
        moved = re.sub(r"namespace: ai\b", f"namespace: {NAMESPACE}", "\n---\n".join([sample[1], standin]))
        apply(demo.replace(moved, "http://frontier.ai.svc", f"http://frontier.{NAMESPACE}.svc") + "\n---\n" + POLICY.replace("SECRET", "rotated"))
        kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "rp/rotating", "--timeout=90s")
        kubectl("rollout", "status", "-n", NAMESPACE, "deployment/frontier", "--timeout=60s")
        address = kubectl("get", "service", "-n", NAMESPACE, "rotating-router", "-o", "jsonpath={.spec.clusterIP}")
        wait_for("a first answer", 30, lambda: status(address, "steady") == 200)
        self.assertEqual((status(address, "first"), status(address, "second")), (200, 401))
        before = pods()

        with Load(address) as load:
            secret("rotated", "second")
            # Every router must have seen it, and requests go to any of them.
            took = wait_for("the new key", 150, lambda: all(status(address, "second") == 200 for _ in range(10)))
            wait_for("the old key's end", 30, lambda: all(status(address, "first") == 401 for _ in range(10)))
            self.assertEqual(pods(), before, "a router was restarted for a new key")
            print(f"\n  a new key in a mounted Secret was obeyed after {took:.0f} s, without a restart")

            secret("other", "third")
            begin = time.monotonic()
            apply(POLICY.replace("SECRET", "other"))
            wait_for("routers with the new Secret", 150, lambda: before.isdisjoint(pods()))
            kubectl("rollout", "status", "-n", NAMESPACE, "deployment/rotating-router", "--timeout=90s")
            self.assertEqual([status(address, key) for key in ("third", "second")], [200, 401])
            print(f"  a new Secret name rolled 2 routers in {time.monotonic() - begin:.0f} s")
        total = load.answered + len(load.failed)
        rate = total / load.seconds
        print(f"  {total} requests at {rate:.0f} a second of a client that nothing changed for: {len(load.failed)} failed, {load.late} ended a second late or more")
        self.assertEqual(load.failed[:10], [])
        self.assertGreater(rate, 0.97 * RATE)
