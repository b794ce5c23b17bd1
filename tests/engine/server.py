"""The engine of the demo: llama.cpp's own HTTP server, with llama-server's command line.

The server itself (C++) is the one inside the `xllamacpp` wheel; this file only
turns the flags that the project's pool pods use into its parameters and then
waits for the signal to stop. Unknown flags are an error: a typo must not
silently change what is measured.

On SIGTERM the process leaves at once when idle. While requests are being
answered it waits for them, `--drain-seconds` at most; a second signal ends it.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}
IDLE_POLL_SECONDS = 0.05
RUNNING = re.compile(r"^llamacpp:requests_(?:processing|deferred) (\d+)", re.MULTILINE)


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="llama-server",
        description="llama.cpp's HTTP server (OpenAI API) for one GGUF model",
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--model", required=True, type=Path, help="GGUF file")
    parser.add_argument("-a", "--alias", default="", help="model name in /v1/models and answers")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on")
    parser.add_argument("-np", "--parallel", type=int, default=1, help="requests decoded at once")
    parser.add_argument(
        "-c", "--ctx-size", type=int, default=4096, help="context tokens, shared by the slots"
    )
    parser.add_argument("-t", "--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--metrics", action="store_true", help="serve /metrics")
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=10.0,
        help="after SIGTERM wait this long at most for running requests",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log every request")
    return parser.parse_args(argv)


def load_extension() -> ModuleType:
    """Load the extension alone: its package also imports modules that an image need not carry."""
    for folder in sys.path:
        for library in sorted(Path(folder, "xllamacpp").glob("xllamacpp*.so")):
            loader = importlib.machinery.ExtensionFileLoader("xllamacpp", str(library))
            spec = importlib.util.spec_from_file_location("xllamacpp", library, loader=loader)
            if spec is None:
                continue
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return module
    raise SystemExit("llama-server: the xllamacpp extension is not on PYTHONPATH")


def start(llama: ModuleType, args: argparse.Namespace) -> Any:
    params = llama.CommonParams()
    params.model.path = str(args.model)
    if args.alias:
        params.model_alias = {args.alias}
    params.hostnames = [args.host]
    params.port = args.port
    params.n_parallel = args.parallel
    params.n_ctx = args.ctx_size
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    # Requests of all slots share one prompt prefix; a unified cache lets one use the whole context.
    params.kv_unified = True
    params.cache_ram_mib = 0
    params.n_gpu_layers = 0
    params.fit_params = False
    params.endpoint_metrics = True  # also what tells us whether we are idle
    params.endpoint_slots = False
    params.endpoint_props = False
    params.ui = False
    params.use_jinja = True
    if not args.verbose:
        params.verbosity = 1
    return llama.Server(params)


def processing(server: Any) -> int:
    """Requests being answered or queued; 0 when the server can't say."""
    try:
        answer = server.handle_metrics()
    except Exception:  # noqa: BLE001 - on the way out every doubt means "leave"
        return 0
    return sum(int(count) for count in RUNNING.findall(str(answer)))


def main() -> None:
    args = arguments(sys.argv[1:])
    if not args.model.is_file():
        raise SystemExit(f"llama-server: no model at {args.model}")
    # Blocked here, so that every thread inherits it and only sigwait() below sees the signals.
    # (As process 1 of a container a signal without a handler would be ignored.)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    ready = threading.Event()
    running: list[Any] = []

    def serve() -> None:
        try:
            running.append(start(load_extension(), args))
        except BaseException as error:  # noqa: BLE001 - a thread's error must end the process
            print(f"llama-server: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        print(f"llama-server: {args.model.name} on {running[0].listening_address}", flush=True)
        ready.set()

    threading.Thread(target=serve, daemon=True).start()
    signal.sigwait(STOP_SIGNALS)
    if ready.is_set():
        # A second signal takes its default action... except for process 1, hence the exit below.
        threading.Thread(
            target=lambda: (signal.sigwait(STOP_SIGNALS), os._exit(0)), daemon=True
        ).start()
        end = time.monotonic() + args.drain_seconds
        while processing(running[0]) and time.monotonic() < end:
            time.sleep(IDLE_POLL_SECONDS)
    sys.stdout.flush()
    os._exit(0)  # the C++ threads have nothing to save


if __name__ == "__main__":
    main()
