"""What is measured: nothing between (direct), nginx, the router; and the backends behind all of them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from processes import Failed, Place, end, listening, port

# Some want a key that is hard to guess.
KEY = "sk-" + hashlib.sha256(b"bench").hexdigest()
PATH = "/v1/chat/completions"
LONG = "/gated/chat/completions"
HERE = Path(__file__).resolve().parent
MANIFESTS = HERE / "manifests.yaml"
# Debian puts nginx where only root looks.
os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CORES = len(os.sched_getaffinity(0))


@dataclass
class Backend:
    """What a system is put in front of."""

    port: int
    streams: bool = False


@dataclass
class System:
    """One row of the result."""

    name: str
    # Starts it in a place; what it returns is the process that is measured.
    start: Callable[[Place, Backend], subprocess.Popen[bytes]] | None
    version: Callable[[], str]
    path: str = PATH
    model: str = "plain"
    # The backend's reply has log probabilities: it is 50 times as long, and latency is added to `direct-long`.
    long: bool = False
    # Measured with large requests too.
    bodies: bool = False
    # It reads replies whole: the first token of a stream says nothing.
    whole: bool = False


def request(model: str, size: int = 1024, *, stream: bool = False) -> str:
    """A request of so many bytes."""
    sentence = "Which of these is it: a refund, a change of address, a complaint, or another thing? "
    said: dict[str, object] = {"model": model, "max_tokens": 64}
    if stream:
        said["stream"] = True
    empty = len(json.dumps({**said, "messages": [{"role": "user", "content": ""}]}))
    room = max(size - empty, 1)
    text = (sentence * (room // len(sentence) + 1))[:room]
    return json.dumps({**said, "messages": [{"role": "user", "content": text}]})


def completion(*, logprobs: bool) -> str:
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
    return json.dumps(
        {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    )


def nginx(place: Place, server: str) -> subprocess.Popen[bytes]:
    """A server block with its own master and a worker a core."""
    folder = place.folder
    config = folder / "nginx.conf"
    # The workers of root's nginx would be another user, who can't read this folder.
    user = "user root;" if os.geteuid() == 0 else ""
    # Requests of up to 1 MiB are kept in memory, as the router does.
    config.write_text(f"""
{user}
worker_processes {CORES};
pid {folder}/nginx.pid;
error_log {folder}/log;
daemon off;
events {{ worker_connections 4096; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 8m;
  client_body_buffer_size 2m;
  types {{ }} default_type application/json;
  {server}
}}
""")
    return place.spawn("nginx", "-e", folder / "log", "-c", config)


def backend(place: Place) -> None:
    """The fastest there is: a static reply. It answers what health checks of the peers ask for, too."""
    gated, models = place.folder / "gated/reply.json", {"object": "list", "data": [{"id": "plain", "object": "model"}]}
    gated.parent.mkdir()
    gated.write_text(completion(logprobs=True))
    whole = place.folder / "whole/reply.json"
    whole.parent.mkdir()
    whole.write_text(completion(logprobs=False))
    # A string of nginx's configuration is at most 4 KiB, so the long reply is a file; POST of a static file is 405.
    # `return` answers before a large request has come; `mirror` takes it in first, as a model server does.
    process = nginx(place, f"""
  open_file_cache max=10;
  server {{
    listen 127.0.0.1:{place.listen} reuseport backlog=4096;
    location / {{ return 200 '{{}}'; }}
    location = /v1/models {{ return 200 '{json.dumps(models)}'; }}
    location /v1/chat/ {{
      if ($content_length ~ "^[0-9]{{5,}}$") {{ rewrite ^ /large last; }}
      return 200 '{completion(logprobs=False)}';
    }}
    location /gated/ {{ error_page 405 =200 /gated-reply.json; root {place.folder}/none; return 405; }}
    location = /gated-reply.json {{ internal; alias {gated}; }}
    location = /large {{ internal; mirror /sink; error_page 405 =200 /whole-reply.json; alias {whole}; }}
    location = /whole-reply.json {{ internal; alias {whole}; }}
    location = /sink {{ internal; return 204; }}
  }}""")
    listening(process, place.listen, place)


def proxy(place: Place, to: Backend) -> subprocess.Popen[bytes]:
    buffering = "proxy_buffering off;" if to.streams else ""
    return nginx(place, f"""
  upstream backend {{ server 127.0.0.1:{to.port}; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{place.listen} reuseport backlog=4096;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header connection "";
      {buffering}
    }}
  }}""")


def fetch(url: str, seconds: float = 10) -> bytes:
    limit = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.read()
        except OSError as error:
            if time.monotonic() > limit:
                raise Failed(f"{url}: {error}") from None
            time.sleep(0.05)


@dataclass
class Router:
    """The router, with all that it does for a request: key, classes, usage, cost, metrics, access log."""

    binary: Path

    def table(self, place: Place, to: Backend) -> Path:
        """The routing table of the manifests, as the operator would compile it."""
        at, admin = f"http://127.0.0.1:{to.port}", port()
        compiler = place.spawn(
            self.binary, "local", MANIFESTS, "--endpoint", f"plain={at}/v1", "--endpoint", f"gated={at}/gated",
            "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{admin}", environment={"RUST_LOG": "error"},
        )  # fmt: skip
        path = place.folder / "table.json"
        path.write_bytes(fetch(f"http://127.0.0.1:{admin}/table"))
        end(compiler)
        return path

    def start(self, place: Place, to: Backend) -> subprocess.Popen[bytes]:
        keys = place.folder / "secrets/keys"
        keys.mkdir(parents=True)
        (keys / "bench").write_text(KEY)
        return place.spawn(
            self.binary, "router", "--table", self.table(place, to), "--secrets-dir", keys.parent,
            "--listen", f"127.0.0.1:{place.listen}", "--admin", f"127.0.0.1:{port()}", "--lame-duck-seconds", "0",
            output="access.log", environment={"RUST_LOG": "error"},
        )  # fmt: skip


def output(*command: object) -> str:
    """The first line that a program says."""
    try:
        done = subprocess.run(
            list(map(str, command)), check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    return (done.stdout.strip().splitlines() or [""])[0]


def ours(binary: Path, bare: Path) -> tuple[list[System], list[System]]:
    """What the peers are compared with: before them and after them. `bare` is the least that hyper can do."""
    router = Router(binary)

    def least(place: Place, to: Backend) -> subprocess.Popen[bytes]:
        return place.spawn(bare, "--listen", f"127.0.0.1:{place.listen}", "--to", f"127.0.0.1:{to.port}")

    def nginx_version() -> str:
        return output("nginx", "-v").removeprefix("nginx version: nginx/")

    def hyper_version() -> str:
        return output("sed", "-n", '/^name = "hyper"$/{n;s/version = "\\(.*\\)"/\\1/p}', HERE.parents[1] / "Cargo.lock")

    def version() -> str:
        return output(binary, "--version").removeprefix("smallfirst ")

    before = [
        System("direct", None, nginx_version, bodies=True),
        System("nginx", proxy, nginx_version, bodies=True),
        System("hyper", least, hyper_version, whole=True),
    ]
    after = [
        System("smallfirst", router.start, version, bodies=True),
        System("direct-long", None, nginx_version, path=LONG, long=True),
        System("nginx-long", proxy, nginx_version, path=LONG, long=True),
        System("smallfirst-gated", router.start, version, model="gated", long=True),
    ]
    return before, after

