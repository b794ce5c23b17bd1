"""Requests with the official OpenAI SDK, and what the routers' access logs say of them."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai

from kube import NAMESPACE

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass
class Reply:
    """One request as its client saw it."""

    text: str
    gold: str
    intent: str = ""
    steps: str = ""
    outcome: str = ""
    cost: float = 0.0
    seconds: float = 0.0
    request_id: str = ""
    error: str = ""

    @property
    def correct(self) -> bool:
        return self.intent == self.gold

    @property
    def escalated(self) -> bool:
        return ":escalated" in self.steps

    @property
    def reason(self) -> str:
        first = self.steps.split(" ")[0]
        return first[first.find("(") + 1 : first.rfind(")")] if "(" in first else ""


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


def template() -> dict[str, Any]:
    return json.loads((DATA / "intent-request.json").read_text("utf-8"))


class Client:
    """The official SDK; retries are off, so that every failure counts."""

    def __init__(self, base_url: str, key: str) -> None:
        self.sdk = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=60)
        self.template = template()

    def ask(self, alias: str, row: dict[str, Any]) -> Reply:
        request = json.loads(json.dumps(self.template))
        request["model"] = alias
        request["messages"][-1]["content"] = row["text"]
        reply = Reply(row["text"], row["gold"])
        begin = time.monotonic()
        try:
            raw = self.sdk.chat.completions.with_raw_response.create(**request)
            reply.steps = raw.headers.get("x-smallfirst-steps", "")
            reply.outcome = raw.headers.get("x-smallfirst-outcome", "")
            reply.cost = float((raw.headers.get("x-smallfirst-cost") or "0").split(" ")[0])
            reply.request_id = raw.headers.get("x-request-id", "")
            reply.intent = intent(raw.parse().choices[0].message.content or "")
        except openai.APIError as error:
            reply.error = f"{type(error).__name__}: {str(error)[:160]}"
        reply.seconds = time.monotonic() - begin
        return reply


def intent(content: str) -> str:
    try:
        value = json.loads(content[content.find("{") : content.rfind("}") + 1])
        return str(value.get("intent", ""))
    except (json.JSONDecodeError, AttributeError):
        return ""


def ask_all(client: Client, alias: str, asked: list[dict[str, Any]], workers: int, show: Any = None) -> list[Reply]:
    """Every row once, a few at a time; `show` is called with each reply as it comes, in no order."""
    lock = threading.Lock()

    def one(row: dict[str, Any]) -> Reply:
        reply = client.ask(alias, row)
        if show:
            with lock:
                show(reply)
        return reply

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, asked))


@dataclass
class Load:
    """Steady requests beside a disturbance, until stopped."""

    client: Client
    alias: str
    asked: list[dict[str, Any]]
    workers: int = 3
    replies: list[Reply] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Load":
        def work(start: int) -> None:
            at = start
            while not self.stop.is_set():
                self.replies.append(self.client.ask(self.alias, self.asked[at % len(self.asked)]))
                at += self.workers

        self.threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(self.workers)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(90)

    @property
    def failed(self) -> list[Reply]:
        return [reply for reply in self.replies if reply.error]


class Scores:
    """Gate scores by request id, followed from the routers' access logs."""

    def __init__(self, selector: str) -> None:
        self.by_id: dict[str, str] = {}
        self.tail = subprocess.Popen(
            ["kubectl", "logs", "-n", NAMESPACE, "-f", "--since=1s", "--max-log-requests=20", "-l", selector],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        for line in self.tail.stdout or ():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            for step in entry.get("steps", []) if isinstance(entry, dict) else []:
                if step.get("score") is not None:
                    self.by_id.setdefault(entry.get("request_id", ""), f"{step['score']:.2f}")

    def of(self, request_id: str) -> str:
        """The score of a request's first judged step; the log may be a moment behind the reply."""
        for _ in range(20):
            if request_id in self.by_id:
                return self.by_id[request_id]
            time.sleep(0.05)
        return "-"

    def close(self) -> None:
        self.tail.terminate()
