"""The engine's parts on disk, fetched once.

Everything lives under ${SMALLFIRST_CACHE:-~/.cache/smallfirst}/engine/ in
folders named after the hash of what made them. A folder appears by a rename
once it is whole, so an interrupted run leaves nothing that looks ready.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pins

HERE = Path(__file__).resolve().parent


def root() -> Path:
    base = os.environ.get("SMALLFIRST_CACHE") or Path.home() / ".cache" / "smallfirst"
    return Path(base).resolve() / "engine"


def say(text: str) -> None:
    print(f"engine: {text}", file=sys.stderr, flush=True)


def hash_of(parts: Iterable[str | Path]) -> str:
    """Hash of texts and of the contents of files."""
    total = hashlib.sha256()
    for part in parts:
        raw = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(hashlib.sha256(raw).digest())
    return total.hexdigest()[:16]


def folder(name: str, make: Callable[[Path], None]) -> Path:
    """The folder of that name, made on first use."""
    ready = root() / name
    if ready.is_dir():
        return ready
    ready.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{ready.name}.", dir=ready.parent))
    try:
        make(partial)
        partial.chmod(0o755)
        try:
            partial.rename(ready)
        except OSError:
            if not ready.is_dir():  # else somebody else was faster, with the same content
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ready


def wheel(pin: pins.Wheel) -> Path:
    """The unpacked wheel; pip checks its hash."""

    def make(target: Path) -> None:
        say(f"fetching {pin.name} {pin.version}")
        with tempfile.TemporaryDirectory(dir=root()) as place:
            wanted = Path(place, "requirements.txt")
            wanted.write_text(f"{pin.name}=={pin.version} --hash=sha256:{pin.sha256}\n")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--disable-pip-version-check", "--no-cache-dir", "--only-binary=:all:"]
            command += ["--require-hashes", "--dest", place, "--requirement", str(wanted)]
            run(command, f"pip could not fetch {pin.name}=={pin.version} (is python3-pip there?)")
            (archive,) = Path(place).glob("*.whl")
            with zipfile.ZipFile(archive) as content:
                content.extractall(target)

    return folder(f"wheels/{pin.name}-{pin.version}-{pin.sha256[:16]}", make)


def deliver(archive: Path, output: Path) -> None:
    """Put a kept archive where it is wanted, whole at once."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        os.link(archive, partial)  # hundreds of MB that need no second copy
    except OSError:
        shutil.copyfile(archive, partial)
    os.replace(partial, output)


def run(command: list[str], complaint: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"engine: {complaint}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout
