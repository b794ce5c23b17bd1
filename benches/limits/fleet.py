"""A fleet on a real control plane: an operator and routers as processes, in a network of their own.

The provider's host name is one of the cluster's, which is what an http base URL may have; inside the network it is the
loopback address.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "faults"))

from rig import get, port, until  # noqa: E402

CLUSTER = ROOT / "tests" / "cluster" / "run"
HOST = "provider.ai.svc"
KEY = "bench-key"
NAMESPACE, POLICY = "ai", "front"
# What the fleets have in common: a tier at the provider, and the policy of its routers.
MANIFESTS = """
apiVersion: smallfirst.dev/v1alpha1
kind: ModelTier
metadata: {{name: frontier, namespace: ai}}
spec:
  class: Frontier
  owner: bench
  model: {{name: {model}, contextTokens: 8000}}
  prices: [{{inputPerMillion: "1", outputPerMillion: "2"}}]
  provider:
    api: OpenAI
    baseURL: http://{host}:{port}/v1
    credential: {{secretKeyRef: {{name: keys, key: bench}}}}
    {quota}
---
apiVersion: smallfirst.dev/v1alpha1
kind: RoutingPolicy
metadata: {{name: front, namespace: ai}}
spec:
  router: {{replicas: {routers}}}
  anonymous: {{}}
  workloads:
  - {{name: asked, owner: bench, match: {{models: [asked]}}, tierRef: {{name: frontier}}{budget}}}
  default: {{reject: {{}}}}
"""


def manifests(provider: str, model: str, routers: int, quota: str = "", budget: str = "") -> str:
    """Of a provider at this address. `quota` and `budget` are their fields, if there are any."""
    port = provider.rsplit(":", 1)[1]
    return MANIFESTS.format(host=HOST, port=port, model=model, routers=routers, quota=quota, budget=budget)


def alone() -> None:
    """Goes on in a network of its own, in which only the loopback is, and where the provider's name is known."""
    if os.environ.get("SMALLFIRST_ALONE"):
        hosts = Path(os.environ["SMALLFIRST_ALONE"])
        subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    with tempfile.TemporaryDirectory(prefix="smallfirst-limits-") as folder:
        hosts = Path(folder) / "hosts"
        hosts.write_text(f"127.0.0.1 localhost {HOST}\n")
        # What is fetched or built needs the network.
        subprocess.run([CLUSTER, "build", "--variant", "control-plane"], check=True)
        command = ["unshare", "--net", "--mount", sys.executable, *sys.argv]
        done = subprocess.run(command, check=False, env={**os.environ, "SMALLFIRST_ALONE": str(hosts)})
    raise SystemExit(done.returncode)


class Fleet:
    """The control plane with a policy on it."""

    def __init__(self, stack: ExitStack, binary: Path, manifests: str) -> None:
        self.stack, self.binary = stack, binary
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="smallfirst-fleet-")))
        self.log = stack.enter_context((self.folder / "log").open("wb"))
        tools = subprocess.run([CLUSTER, "fetch"], check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
        self.kubectl = f"{tools}/kubectl"
        plane = self.folder / "plane"
        variant = ("--variant", "control-plane", "--run-dir", plane)
        stack.callback(lambda: subprocess.run([CLUSTER, "wipe", *variant], check=False))
        subprocess.run([CLUSTER, "up", *variant], check=True)
        self.env = {**os.environ, "KUBECONFIG": str(plane / "kubeconfig"), "RUST_LOG": "warn"}
        self.kube("apply", "--server-side", "-f", str(ROOT / "crds"))
        self.kube("wait", "--for=condition=Established", "crd", "--all")
        for name in (NAMESPACE, "smallfirst-system"):
            self.kube("create", "namespace", name)
        self.sync = f"127.0.0.1:{port()}"
        self.kube("apply", "-f", "-", stdin=manifests)
        self.operator = self.start_operator()
        secrets = self.folder / "secrets" / "keys"
        secrets.mkdir(parents=True)
        (secrets / "bench").write_text(KEY)

    def kube(self, *words: str, stdin: str | None = None) -> str:
        done = subprocess.run([self.kubectl, *words], env=self.env, text=True, input=stdin, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def start_operator(self) -> subprocess.Popen[bytes]:
        command = [
            str(self.binary), "operator", "--router-image", "none.invalid/smallfirst", "--leader-election-namespace",
            "smallfirst-system", "--sync-address", self.sync, "--sync-listen", self.sync, "--admin-address", f"127.0.0.1:{port()}",
        ]  # fmt: skip
        process = subprocess.Popen(command, env=self.env, stdout=self.log, stderr=self.log)
        self.stack.callback(process.kill)
        return process

    def restart_operator(self) -> None:
        self.operator.kill()
        self.operator.wait()
        self.operator = self.start_operator()

    def policy(self) -> dict:
        return json.loads(self.kube("get", "routingpolicy", POLICY, "-n", NAMESPACE, "-o", "json"))

    def credentials(self) -> None:
        """What the kubelet would mount into routers: rights of their account, and a token for the operators."""
        account = f"{POLICY}-router"
        until(lambda: account in self.kube("get", "serviceaccounts", "-n", NAMESPACE), "the routers' account", 30)
        token = ("create", "token", account, "-n", NAMESPACE, "--duration", "2h")
        (self.folder / "token").write_text(self.kube(*token, "--audience", "smallfirst-sync"))
        config = json.loads(self.kube("config", "view", "--raw", "-o", "json"))
        for user in config["users"]:
            user["user"] = {"token": self.kube(*token).strip()}
        (self.folder / "kubeconfig").write_text(json.dumps(config))


class Router:
    """A router process of the fleet, which keeps its disk."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet, self.name = fleet, name
        self.address, self.admin = (f"127.0.0.1:{port()}" for _ in range(2))
        (fleet.folder / name).mkdir()
        self.start()
        fleet.stack.callback(lambda: self.process.kill())

    def start(self) -> None:
        folder = self.fleet.folder
        command = [
            str(self.fleet.binary), "router", "--namespace", NAMESPACE, "--policy", POLICY, "--pod", self.name, "--threads", "1",
            "--listen", self.address, "--admin", self.admin, "--secrets-dir", str(folder / "secrets"),
            "--sync-token-file", str(folder / "token"), "--state-dir", str(folder / self.name),
        ]  # fmt: skip
        env = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "RUST_LOG": "warn"}
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=self.fleet.log)

    def ready(self) -> None:
        until(lambda: bool(get(f"http://{self.admin}/readyz")), f"{self.name} is ready", 30)

    def restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self.start()


def pause_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))
