#!/usr/bin/env python3
"""Measure the demo's prompt on a real small model: accuracy, confidence, what a cascade gains.

    ../engine/serve --port 18080 &
    ./measure.py --url http://127.0.0.1:18080            # the table of README.md

A request is `intent-request.json` with the message put in the place of its last
user message. The threshold is chosen on intents-calibration.jsonl alone, and
then applied to the messages of intents-frontier.jsonl, which the demo shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Accepted small answers should be right this often (on the calibration messages, no bound).
TARGET_ACCEPTED = 0.90


@dataclass(frozen=True)
class Answer:
    """One message, answered by the small model."""

    text: str
    gold: str
    content: str
    intent: str
    finish: str
    seconds: float
    tokens: int
    scores: dict[str, float]

    @property
    def correct(self) -> bool:
        return self.intent == self.gold


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HERE / name).read_text("utf-8").splitlines()]


def value_span(content: str, value: str) -> tuple[int, int]:
    """Byte span of the answer's one leaf value, without its quotes."""
    start = content.rindex(f'"{value}"') + 1
    before = len(content[:start].encode())
    return before, before + len(value.encode())


def value_tokens(content: str, value: str, tokens: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens that overlap the value.

    llama.cpp may wrap a constrained answer in a Markdown fence that it strips
    from the content but not from the logprobs, so offsets count from where the
    content begins in the tokens' own bytes.
    """
    pieces = [bytes(token["bytes"] or []) for token in tokens]
    shift = b"".join(pieces).index(content.encode())
    start, end = (shift + edge for edge in value_span(content, value))
    chosen, at = [], 0
    for token, piece in zip(tokens, pieces, strict=True):
        if at < end and at + len(piece) > start:
            chosen.append(token)
        at += len(piece)
    return chosen


def margin(token: dict[str, Any]) -> float:
    best = sorted((top["logprob"] for top in token["top_logprobs"]), reverse=True)
    return best[0] - best[1]


def scores(values: list[dict[str, Any]], every: list[dict[str, Any]]) -> dict[str, float]:
    logprobs = [token["logprob"] for token in values]
    return {
        "MeanLogprob over Values": statistics.fmean(logprobs),
        "MinLogprob over Values": min(logprobs),
        "FirstTokenLogprob over Values": logprobs[0],
        "FirstTokenMargin over Values": margin(values[0]),
        "MeanLogprob over All": statistics.fmean(token["logprob"] for token in every),
    }


def request_for(template: dict[str, Any], text: str) -> dict[str, Any]:
    messages = [*template["messages"][:-1], {"role": "user", "content": text}]
    return template | {"messages": messages, "logprobs": True, "top_logprobs": 5}


def ask(url: str, template: dict[str, Any], row: dict[str, Any]) -> Answer:
    body = json.dumps(request_for(template, row["text"])).encode()
    call = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"content-type": "application/json"}
    )
    begin = time.monotonic()
    with urllib.request.urlopen(call, timeout=120) as reply:
        answer = json.load(reply)
    seconds = time.monotonic() - begin
    choice = answer["choices"][0]
    content, tokens = choice["message"]["content"], choice["logprobs"]["content"]
    try:
        intent = json.loads(content)["intent"]
        measured = scores(value_tokens(content, intent, tokens), tokens)
    except (ValueError, KeyError, TypeError, IndexError):  # not the JSON asked for
        intent, measured = "", {}
    return Answer(
        row["text"],
        row["gold"],
        content,
        intent,
        choice["finish_reason"],
        seconds,
        answer["usage"]["completion_tokens"],
        measured,
    )


def auroc(answers: list[Answer], score: Callable[[Answer], float]) -> float:
    right = [score(a) for a in answers if a.correct]
    wrong = [score(a) for a in answers if not a.correct]
    if not right or not wrong:
        return float("nan")
    wins = sum((r > w) + 0.5 * (r == w) for r in right for w in wrong)
    return wins / (len(right) * len(wrong))


def by_measure(measure: str) -> Callable[[Answer], float]:
    """The score, or what no threshold lets through where an earlier gate of the demo refuses."""
    refused = float("-inf")
    return lambda a: a.scores.get(measure, refused) if a.finish == "stop" else refused


def loosest(answers: list[Answer], score: Callable[[Answer], float], target: float) -> float:
    """The lowest threshold whose accepted answers are right at least `target` of the time."""
    best, right = float("inf"), 0
    for rank, answer in enumerate(sorted(answers, key=score, reverse=True), start=1):
        right += answer.correct
        if right / rank >= target and score(answer) > float("-inf"):
            best = score(answer)
    return best


def accuracy(answers: list[Answer]) -> float:
    return statistics.fmean(answer.correct for answer in answers)


def path(
    answers: list[Answer],
    frontier: dict[str, bool],
    score: Callable[[Answer], float],
    threshold: float,
) -> dict[str, float]:
    kept = [answer for answer in answers if score(answer) >= threshold]
    escalated = [answer for answer in answers if score(answer) < threshold]
    ratio = len(escalated) / len(answers)
    alone, large = accuracy(answers), statistics.fmean(frontier[a.text] for a in answers)
    right = sum(a.correct for a in kept) + sum(frontier[a.text] for a in escalated)
    return {
        "escalated": ratio,
        "accepted right": accuracy(kept) if kept else float("nan"),
        "path": right / len(answers),
        "random": (1 - ratio) * alone + ratio * large,
        "small": alone,
        "frontier": large,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:18080")
    parser.add_argument("--request", type=Path, default=HERE / "intent-request.json")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="without response_format")
    parser.add_argument("--target", type=float, default=TARGET_ACCEPTED)
    parser.add_argument("--at", type=float, help="this threshold, instead of the chosen ones")
    parser.add_argument("--limit", type=int, help="only the first messages of each set")
    parser.add_argument("--errors", action="store_true", help="list the wrong answers")
    options = parser.parse_args()

    template = json.loads(options.request.read_text("utf-8"))
    if options.plain:
        template.pop("response_format", None)
    recorded = rows("intents-frontier.jsonl")
    frontier = {r["text"]: json.loads(r["answer"])["intent"] == r["gold"] for r in recorded}
    sets = {"calibration": rows("intents-calibration.jsonl"), "shown": recorded}
    results: dict[str, list[Answer]] = {}
    with ThreadPoolExecutor(options.parallel) as pool:
        for name, messages in sets.items():
            messages = messages[: options.limit]
            results[name] = list(pool.map(lambda row: ask(options.url, template, row), messages))
            answers = results[name]
            seconds = sorted(a.seconds for a in answers)
            print(
                f"{name}: {len(answers)} messages, small right {accuracy(answers):.3f}, "
                f"not JSON {sum(not a.scores for a in answers)}, "
                f"cut off {sum(a.finish != 'stop' for a in answers)}, "
                f"latency p50 {seconds[len(seconds) // 2]:.2f} s "
                f"p95 {seconds[int(len(seconds) * 0.95)]:.2f} s, "
                f"{statistics.fmean(a.tokens for a in answers):.1f} tokens",
                flush=True,
            )
    if options.errors:
        for answer in results["calibration"]:
            if not answer.correct:
                print(f"  {answer.text!r}: {answer.intent} instead of {answer.gold}")
    print(
        f"{'measure':30} AUROC cal shown | threshold  cal: kept right | "
        "shown: escalated  kept right  path  random  (small, frontier)"
    )
    blank = {"logprob": 0.0, "top_logprobs": [{"logprob": 0.0}] * 2}
    for measure in scores([blank], [blank]):
        score = by_measure(measure)
        threshold = options.at
        if threshold is None:
            threshold = loosest(results["calibration"], score, options.target)
        if threshold == float("inf"):
            print(f"{measure:30} no threshold reaches {options.target}")
            continue
        kept = [a for a in results["calibration"] if score(a) >= threshold]
        seen = path(results["shown"], frontier, score, threshold)
        print(
            f"{measure:30} {auroc(results['calibration'], score):.3f}     "
            f"{auroc(results['shown'], score):.3f} | {threshold:9.3f}  "
            f"{len(kept) / len(results['calibration']):.3f} "
            f"{accuracy(kept) if kept else float('nan'):.3f} | "
            f"{seen['escalated']:.3f}  {seen['accepted right']:.3f}  {seen['path']:.3f}  "
            f"{seen['random']:.3f}  ({seen['small']:.3f}, {seen['frontier']:.3f})"
        )


if __name__ == "__main__":
    sys.exit(main())
