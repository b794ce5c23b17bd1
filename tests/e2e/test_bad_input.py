"""Bad input gets a message that names the field, and changes nothing that serves."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request

import main as demo
from disturb import table_hash
from kube import Failure, apply, wait_for
from portfolio import NAMESPACE, ROUTERS, Case, address, kubectl, pod_ips

# Refused by the API server: what is changed in the portfolio, and what the message says.
REFUSED = {
    "two union members": (
        "  pool:\n", "  service: {serviceRef: {name: other, port: 80}}\n  pool:\n",
        "spec: exactly one of pool, provider and service",
    ),
    "wrong decimal": ('inputPerMillion: "0.02"', 'inputPerMillion: "2 cents"', "spec.prices[0].inputPerMillion"),
    "duplicate workload names": ("  - name: drafts\n", "  - name: ticket-intent\n", "spec.workloads[1]"),
    "unknown field": ("    risk: Low\n", "    risk: Low\n    rsik: Low\n", "rsik"),
}
# Accepted, shown in a condition, and not in force: the object, the change, and what the condition says.
CONDITION = {
    "unknown tier": ("esc/small-first", "    tierRef: {name: compact}\n    timeout", "    tierRef: {name: compcat}\n    timeout", "spec.steps[0].tierRef"),
    "a gate that its tier can't satisfy": (
        "mt/compact esc/small-first", "[Chat, JSONSchema, Logprobs, Streaming]", "[Chat, JSONSchema, Streaming]",
        "spec.steps[0].accept[2].confidence",
    ),
    "class goes down": ("esc/frontier-then-compact", "    entry: FailoverOnly\n", "", "spec.steps[1]"),
    "invalid regex": ("esc/small-first", "    - finishReason: [stop]\n", '    - match: {regex: "(unclosed"}\n', "spec.steps[0].accept[0].match"),
    "no step may see the data": (
        "rp/assistants", "    dataClass: Confidential\n    match: {models: [review]}", "    dataClass: Restricted\n    match: {models: [review]}",
        "spec.workloads[2].dataClass",
    ),
    "template with hostPath": (
        "mt/compact", "    engine: LlamaCpp\n",
        "    engine: LlamaCpp\n    template:\n      spec:\n        volumes: [{name: host, hostPath: {path: /etc}}]\n", "spec.pool.template",
    ),
}


def status_text(objects: str) -> str:
    """Every condition's message of the objects."""
    found = [json.loads(kubectl("get", each, "-n", NAMESPACE, "-o", "json")) for each in objects.split()]
    return " ".join(c["message"] for each in found for c in each.get("status", {}).get("conditions", []) if c["status"] != "True")


class BadManifests(Case):
    def setUp(self) -> None:
        self.before = {ip: table_hash(ip) for ip in pod_ips(ROUTERS)}
        self.assertEqual(len(self.before), 2)

    def nothing_changed(self) -> None:
        self.assertEqual({ip: table_hash(ip) for ip in pod_ips(ROUTERS)}, self.before)
        self.ask()

    def test_refused(self) -> None:
        for name, (old, new, message) in REFUSED.items():
            with self.subTest(name):
                with self.assertRaisesRegex(Failure, "invalid|strict decoding|denied") as refused:
                    apply(demo.replace(self.manifest, old, new))
                self.assertIn(message, str(refused.exception))
                apply(self.manifest)
                self.nothing_changed()

    def test_condition(self) -> None:
        for name, (objects, old, new, message) in CONDITION.items():
            with self.subTest(name):
                apply(demo.replace(self.manifest, old, new))
                try:
                    wait_for(f"{name}: a condition of {objects} names {message}", 10, lambda: message in status_text(objects))
                    time.sleep(1)
                    self.nothing_changed()
                finally:
                    apply(self.manifest)
                wait_for("all is well again", 30, lambda: not status_text("mt/compact esc/small-first esc/frontier-then-compact rp/assistants"))
                self.nothing_changed()

    def test_missing_secret(self) -> None:
        keyless = demo.replace(self.manifest.split("\n---\n")[-1], "name: assistants,", "name: keyless,")
        apply(demo.replace(keyless, "key: finance", "key: absent"))
        self.addCleanup(kubectl, "delete", "rp", "keyless", "-n", NAMESPACE)

        def said() -> bool:
            events = json.loads(kubectl("get", "events", "-n", NAMESPACE, "-o", "json"))["items"]
            return any(
                each["involvedObject"].get("name") == "keyless" and "spec.clients[finance].apiKey.secretKeyRef" in each["message"] and "absent" in each["message"]
                for each in events
            )

        wait_for("an Event of the policy names the Secret and its field", 60, said)
        self.nothing_changed()


class BadRequests(Case):
    @classmethod
    def setUpClass(cls) -> None:
        """A policy that has no default workload, beside the portfolio's."""
        super().setUpClass()
        strict = demo.replace(cls.manifest.split("\n---\n")[-1], "name: assistants,", "name: strict,")
        apply(demo.replace(strict, "default: {workload: ticket-intent}", "default: {reject: {}}"))
        cls.addClassCleanup(kubectl, "delete", "rp", "strict", "-n", NAMESPACE)
        kubectl("wait", "-n", NAMESPACE, "--for=condition=Ready", "rp/strict", "--timeout=60s")

    def send(self, body: bytes, key: str = demo.CLIENT_KEY) -> tuple[int, str]:
        request = urllib.request.Request(
            f"{address('strict')}/v1/chat/completions", body, {"content-type": "application/json", "authorization": f"Bearer {key}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]["message"]

    def test_requests(self) -> None:
        good = {"model": "intent", "messages": [{"role": "user", "content": "hello"}]}
        text = json.dumps(good).encode()
        for name, body, key, status, words in (
            ("malformed JSON", b'{"model": ', demo.CLIENT_KEY, 400, ["JSON"]),
            ("wrong UTF-8", text.replace(b"hello", b"\xff\xfe"), demo.CLIENT_KEY, 400, ["UTF-8"]),
            ("unknown model", text.replace(b"intent", b"gpt-7"), demo.CLIENT_KEY, 404, ["gpt-7", "intent", "review", "draft"]),
            ("wrong key", text, "guess", 401, ["key"]),
            ("large body", text.replace(b"hello", b"x" * (33 << 20)), demo.CLIENT_KEY, 413, ["bytes"]),
        ):
            with self.subTest(name):
                got, message = self.send(body, key)
                self.assertEqual(got, status, message)
                for word in words:
                    self.assertIn(word, message)
        self.ask()
