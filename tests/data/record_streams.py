#!/usr/bin/env python3
"""Record streams of free text from a real engine, as a test replays them.

    ../engine/serve --port 18080 --parallel 2 --threads 2 &
    ./record_streams.py --url http://127.0.0.1:18080 > prose-streams-135m.jsonl

A line has the prompt, the finish reason, and the chunks as they came: each the text of its delta, and token and log
probability of every token in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

SUBJECTS = (
    "how bread is baked", "why the sky is blue", "what a good holiday is", "how to learn a language",
    "what a library is for", "how a bicycle works", "why people keep cats", "how to write a letter of thanks",
    "what happens in a thunderstorm", "how tea is made", "why sleep matters", "what a market looks like",
    "how a garden is planted", "why bees matter", "what a bridge does", "how to save water at home",
    "what makes a good friend", "how a candle burns", "why forests matter", "what one sees at the sea",
)
FORMS = ("Explain in one paragraph", "Write a short story that shows")


def record(url: str, prompt: str) -> dict[str, Any]:
    body = {
        "messages": [{"role": "user", "content": prompt}], "stream": True, "logprobs": True, "top_logprobs": 1,
        "max_tokens": 64, "temperature": 0,
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    chunks, finish = [], None
    with urllib.request.urlopen(request, timeout=120) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                finish = choice["finish_reason"] or finish
                content = choice["delta"].get("content")
                tokens = (choice.get("logprobs") or {}).get("content") or []
                if content:
                    chunks.append([content, [[token["token"], round(token["logprob"], 6)] for token in tokens]])
    return {"prompt": prompt, "finish": finish, "chunks": chunks}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--url", required=True)
    url = parser.parse_args().url
    prompts = [f"{form} {subject}." for form in FORMS for subject in SUBJECTS]
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda prompt: record(url, prompt), prompts):
            print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
