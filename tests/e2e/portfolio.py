"""What the tests with real pods stand on: the charts, and the demo's portfolio in namespace ai, installed once."""

from __future__ import annotations

import functools
import unittest
from typing import Any

import main as demo
from kube import NAMESPACE, get, kubectl, pod_ips, run
from traffic import Client, rows

ROUTERS = "smallfirst.dev/policy=assistants"


@functools.cache
def installed() -> str:
    """Install the charts and the portfolio; the manifest that was applied."""
    demo.install()
    return demo.portfolio()


def address(policy: str = "assistants") -> str:
    """Base URL of a policy's router Service."""
    return f"http://{get('service', f'{policy}-router')['spec']['clusterIP']}"


def delete_namespace(name: str) -> None:
    """And wait: what goes on in it must not be part of the next test."""
    kubectl("delete", "namespace", name, "--ignore-not-found", "--timeout=120s", timeout=130)


class Case(unittest.TestCase):
    """A test that needs the portfolio."""

    manifest: str

    @classmethod
    def setUpClass(cls) -> None:
        cls.manifest = installed()
        cls.client = Client(f"{address()}/v1", demo.CLIENT_KEY)

    def ask(self, alias: str = "intent") -> Any:
        reply = self.client.ask(alias, rows("intents-frontier.jsonl")[0])
        self.assertEqual(reply.error, "")
        return reply


__all__ = ["NAMESPACE", "ROUTERS", "Case", "address", "delete_namespace", "demo", "get", "installed", "kubectl", "pod_ips", "run"]
