"""The load of `peak.py`, 1x -> 5x -> 1x, at llama.cpp itself with a small model instead of the stand-in.

`make scaling-llama` runs it on a cluster of its own. The series goes to target/e2e/scaling-llama.json, drawn in
scaling-llama.svg beside it. All replicas share this machine's cores: what is seen is that the autoscaler follows and that
nobody fails, not that more replicas answer more.
"""

from __future__ import annotations

from peak import MANIFEST, Peak, serves
from portfolio import demo

ENGINE = """    engine: LlamaCpp
    image: smallfirst.local/llama-server:dev
    modelFrom: {path: /models/smollm2-135m-instruct.gguf}
    resources: {requests: {cpu: 20m, memory: 256Mi}}
    perReplica: {concurrency: 2}
"""


class Llama(Peak):
    # A request takes about a second of a core.
    phases = ((0.2, 60), (1.0, 150), (0.2, 150))

    def test_an_autoscaler_follows_a_peak_of_a_real_engine(self) -> None:
        serves("metricsApi", True)
        self.addCleanup(serves, "metricsApi", False)
        standin = MANIFEST[MANIFEST.index("    engine: Custom") : MANIFEST.index("    scaling:")]
        self.followed(self.peak(self.start(demo.replace(MANIFEST, standin, ENGINE)), "scaling-llama"))
