"""The load of `peak.py`, 1x -> 5x -> 1x, at llama.cpp itself with a small model instead of the stand-in.

`make scaling-llama` runs it on a cluster of its own. The series goes to target/e2e/scaling-llama.json, drawn in
scaling-llama.svg beside it. All replicas share this machine's cores: what is seen is that the autoscaler follows and that
nobody fails, not that more replicas answer more.
"""

from __future__ import annotations

import re
import time
import urllib.request
from statistics import median

from peak import MANIFEST, POOL, Peak, serves
from portfolio import demo, get
from traffic import rows

ENGINE = """    engine: LlamaCpp
    image: smallfirst.local/llama-server:dev
    modelFrom: {path: /models/smollm2-135m-instruct.gguf}
    resources: {requests: {cpu: 20m, memory: 256Mi}}
    perReplica: {concurrency: 2}
"""
# Requests in the time that one takes alone, for so many seconds: at the peak enough for several replicas, as two that meet slow
# each other down. The last is so long since demand is that of five minutes, and then floor and autoscaler wait for
# `STABILIZATION` each.
PHASES = ((0.2, 45), (1.0, 150), (0.2, 540))
# Seconds for which a machine that has just started a cluster is busy with that.
SETTLES = 60
ANSWERED_NOW = re.compile(r"^llamacpp:requests_processing (\d+)", re.MULTILINE)
# Of so many, one after the other, that time is taken.
ALONE = 9


def answered_now(pod: str) -> int | None:
    """Requests that a server answers at this moment; others may wait within it. `None`: it does not say."""
    try:
        text = urllib.request.urlopen(f"http://{pod}:8080/metrics", timeout=2).read().decode()
    except OSError:
        return None
    found = ANSWERED_NOW.search(text)
    return int(found[1]) if found else None


class Llama(Peak):
    answers_now = staticmethod(answered_now)

    def test_an_autoscaler_follows_a_peak_of_a_real_engine(self) -> None:
        serves("metricsApi", True)
        self.addCleanup(serves, "metricsApi", False)
        standin = MANIFEST[MANIFEST.index("    engine: Custom") : MANIFEST.index("    scaling:")]
        client = self.start(demo.replace(MANIFEST, standin, ENGINE))
        time.sleep(SETTLES)
        some = rows("intents-frontier.jsonl")[:ALONE]
        alone = median(client.ask("load", row).seconds for row in some)
        self.phases = tuple((rate / alone, seconds) for rate, seconds in PHASES)
        print(f"\n  a request takes {alone:.2f} s alone: {', '.join(f'{rate:.1f}' for rate, _ in self.phases)} requests/s")
        seen = self.peak(client, "scaling-llama")
        self.assertIsNotNone(seen.series[-1]["queue"], "no server says what it answers")
        print(f"  {get('mt', POOL)['status']['sizing']['message']}")
        self.followed(seen)
        numbers = [now["replicas"] for now in seen.series]
        self.assertLess(numbers[-1], max(numbers), "they have not fallen again")
