"""Serves TensorZero's gateway from its Python package, which has no program of it. Says its port in a file `port`."""

import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import tensorzero

gateway = tensorzero.tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False
)
part = Path("port.part")
part.write_text(str(urlsplit(gateway.base_url).port))
part.rename("port")
while True:
    time.sleep(3600)
