#!/usr/bin/env python3
"""AUROC of confidence scores on recorded answers, computed the plain way, for a test to compare the gates with.

    auroc.py RECORDS.jsonl      one JSON object: measure -> AUROC (right answers against wrong ones, ties count half)
"""

import json
import re
import sys

VALUE = re.compile(r'"intent"\s*:\s*"([^"]*)"')


def value_tokens(row):
    """Indices of the tokens that overlap the intent's value."""
    found = VALUE.search("".join(row["toks"]))
    if not found:
        return []
    picked, at = [], 0
    for index, token in enumerate(row["toks"]):
        if at < found.end(1) and at + len(token) > found.start(1):
            picked.append(index)
        at += len(token)
    return picked


def margin(row, index):
    others = [lp for token, lp in row["top"][index] if token != row["toks"][index]]
    return row["lps"][index] - max(others)


def mean(numbers):
    return sum(numbers) / len(numbers)


def auroc(scored):
    right = [score for score, correct in scored if correct]
    wrong = [score for score, correct in scored if not correct]
    return mean([(r > w) + 0.5 * (r == w) for r in right for w in wrong])


rows = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
rows = [row for row in rows if value_tokens(row)]
print(json.dumps({
    "rows": len(rows),
    "MeanLogprob Values": auroc([(mean([row["lps"][i] for i in value_tokens(row)]), row["correct"]) for row in rows]),
    "MeanLogprob All": auroc([(mean(row["lps"]), row["correct"]) for row in rows]),
    "FirstTokenMargin Values": auroc([(margin(row, value_tokens(row)[0]), row["correct"]) for row in rows]),
}))
