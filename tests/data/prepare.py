#!/usr/bin/env python3
"""Make the demo's data files from the two sets they are cut from (see README.md).

    ./prepare.py --recordings intents_logprobs.jsonl --banking77 banking77_test.csv

The calibration messages are those of the recordings' eight intents that are not
recorded, 20 an intent, chosen and ordered by the hash of their text.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PER_INTENT = 20


def write(name: str, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text("".join(lines), "utf-8")


def by_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def same(text: str) -> str:
    """What two messages share that differ in spaces and case only."""
    return " ".join(text.lower().split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recordings", type=Path, required=True)
    parser.add_argument("--banking77", type=Path, required=True)
    options = parser.parse_args()
    recorded = [json.loads(line) for line in options.recordings.read_text("utf-8").splitlines()]
    recorded.sort(key=lambda row: row["i"])
    small = [row for row in recorded if row["model"] == "135M"]
    large = [row for row in recorded if row["model"] == "1.5B"]
    write(
        "intents-frontier.jsonl",
        [
            {"text": r["text"], "gold": r["gold"], "answer": json.dumps({"intent": r["ans"]})}
            for r in large
        ],
    )
    fields = ("text", "gold", "ans", "correct", "toks", "lps", "top")
    write("intents-logprobs-135m.jsonl", [{key: row[key] for key in fields} for row in small])
    seen = {same(row["text"]) for row in recorded}
    chosen: dict[str, list[str]] = {intent: [] for intent in sorted({r["gold"] for r in recorded})}
    with options.banking77.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["category"] in chosen and same(row["text"]) not in seen:
                seen.add(same(row["text"]))
                chosen[row["category"]].append(row["text"].strip())
    calibration = [
        {"text": text, "gold": intent}
        for intent, texts in chosen.items()
        for text in sorted(texts, key=by_hash)[:PER_INTENT]
    ]
    write("intents-calibration.jsonl", sorted(calibration, key=lambda row: by_hash(row["text"])))


if __name__ == "__main__":
    main()
