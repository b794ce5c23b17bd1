"""What is measured, each started on loopback: a backend, nginx in front of it, the router in front of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

KEY = "bench-key"
PATH = "/v1/chat/completions"
QUIET = {**os.environ, "RUST_LOG": "error"}
MANIFESTS = Path(__file__).resolve().parent / "manifests.yaml"
# Debian puts nginx where only root looks.
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
os.environ["PATH"] = SEARCH
CORES = len(os.sched_getaffinity(0))
# `smallfirst-gated` judges by log probabilities: the backend's reply is then 50 times as long. `nginx-long` passes the
# same reply on as it is.
NAMES = ("direct", "nginx", "smallfirst", "nginx-long", "smallfirst-gated")


@dataclass
class System:
    name: str
    address: str
    path: str
    model: str
    process: subprocess.Popen[bytes]


def request(model: str) -> dict[str, object]:
    text = "Which of these is it: a refund, a change of address, a complaint, or another thing? " * 8
    return {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": text}]}


def completion(*, logprobs: bool) -> dict[str, object]:
    """A reply of 64 tokens."""
    words = [f" word{n:02}" for n in range(64)]
    choice: dict[str, object] = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(words)},
        "finish_reason": "stop",
    }
    if logprobs:
        def token(word: str) -> dict[str, object]:
            others = [{"token": f"{word}{n}", "logprob": -3.5 - n, "bytes": list(f"{word}{n}".encode())} for n in range(5)]
            return {"token": word, "logprob": -0.0123456, "bytes": list(word.encode()), "top_logprobs": others}

        choice["logprobs"] = {"content": [token(word) for word in words]}
    usage = {"prompt_tokens": 180, "completion_tokens": 64, "total_tokens": 244}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def nginx(folder: Path, name: str, server: str) -> subprocess.Popen[bytes]:
    """A server block with its own master and a worker a core."""
    config = folder / f"{name}.conf"
    # The workers of root's nginx would be another user, who can't read this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(f"""
{user}
worker_processes {CORES};
pid {folder}/{name}.pid;
error_log {folder}/{name}-error.log;
daemon off;
events {{ worker_connections 1024; }}
http {{
  client_body_temp_path {folder}/{name}-body;
  proxy_temp_path {folder}/{name}-proxy;
  access_log off;
  keepalive_requests 1000000000;
  types {{ }} default_type application/json;
  {server}
}}
""")
    return subprocess.Popen(["nginx", "-e", f"{folder}/{name}-error.log", "-c", str(config)])


def backend(folder: Path, listen: int) -> subprocess.Popen[bytes]:
    plain, gated = json.dumps(completion(logprobs=False)), folder / "gated" / "reply.json"
    gated.parent.mkdir()
    gated.write_text(json.dumps(completion(logprobs=True)))
    # A string of nginx's configuration is at most 4 KiB, so the long reply is a file; POST of a static file is 405.
    return nginx(folder, "backend", f"""
  open_file_cache max=10;
  server {{
    listen 127.0.0.1:{listen} reuseport;
    location /v1/ {{ return 200 '{plain}'; }}
    location /gated/ {{ error_page 405 =200 /reply.json; root {folder}/none; return 405; }}
    location = /reply.json {{ internal; root {folder}/gated; }}
  }}""")


def proxy(folder: Path, listen: int, upstream: int) -> subprocess.Popen[bytes]:
    return nginx(folder, "proxy", f"""
  upstream backend {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{listen} reuseport;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header connection "";
    }}
  }}""")


def table(folder: Path, binary: Path, upstream: int) -> Path:
    """The routing table of the manifests, as the operator would compile it."""
    at, admin = f"http://127.0.0.1:{upstream}", port()
    command = [
        binary, "local", MANIFESTS, "--endpoint", f"plain={at}/v1", "--endpoint", f"gated={at}/gated",
        "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{admin}",
    ]  # fmt: skip
    compiler = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env=QUIET)
    try:
        path = folder / "table.json"
        path.write_bytes(fetch(f"http://127.0.0.1:{admin}/table"))
        return path
    finally:
        compiler.terminate()
        compiler.wait(10)


def router(folder: Path, binary: Path, listen: int, upstream: int) -> subprocess.Popen[bytes]:
    (folder / "secrets/keys").mkdir(parents=True)
    (folder / "secrets/keys/bench").write_text(KEY)
    command = [
        binary, "router", "--table", table(folder, binary, upstream), "--secrets-dir", folder / "secrets",
        "--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{port()}", "--lame-duck-seconds", "0",
    ]  # fmt: skip
    with (folder / "access.log").open("wb") as log:
        return subprocess.Popen(list(map(str, command)), stdout=log, env=QUIET)


def fetch(url: str) -> bytes:
    end = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def listening(address: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", address)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {address}")


def start(stack: ExitStack, folder: Path, binary: Path) -> list[System]:
    """Starts everything; what is started ends with `stack`."""
    def own(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        def end() -> None:
            process.terminate()
            process.wait(10)

        stack.callback(end)
        return process

    ports = {name: port() for name in ("backend", "proxy", "router")}
    at = {name: f"127.0.0.1:{number}" for name, number in ports.items()}
    upstream = own(backend(folder, ports["backend"]))
    front = own(proxy(folder, ports["proxy"], ports["backend"]))
    ours = own(router(folder, binary, ports["router"], ports["backend"]))
    for number in ports.values():
        listening(number)
    return [
        System("direct", at["backend"], PATH, "plain", upstream),
        System("nginx", at["proxy"], PATH, "plain", front),
        System("smallfirst", at["router"], PATH, "plain", ours),
        System("nginx-long", at["proxy"], "/gated/chat/completions", "plain", front),
        System("smallfirst-gated", at["router"], PATH, "gated", ours),
    ]
