"""What the documents tell people to do works."""

from __future__ import annotations

import re
import shlex
import tempfile
from pathlib import Path

from kube import run
from portfolio import Case, delete_namespace, demo, kubectl

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (demo.ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(README) if name == language]


class Documents(Case):
    def test_resources_in_the_readme(self) -> None:
        found = [text for text in blocks("yaml") if "smallfirst.dev/" in text]
        self.assertEqual(len(found), 4)
        for text in found:
            kubectl("apply", "--dry-run=server", "-f", "-", stdin=text)

    def test_samples_and_bases(self) -> None:
        for sample in sorted((demo.ROOT / "deploy/samples").glob("*.yaml")):
            kubectl("apply", "--dry-run=server", "-f", str(sample))
        for base in ("crds", "operator", "overlays/cluster-wide", "overlays/one-namespace"):
            kubectl("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-k", str(demo.ROOT / "deploy" / base))

    def test_helm_test(self) -> None:
        """What the chart's NOTES tell people to run after an installation."""
        self.assertIn("Succeeded", run("helm", "test", "smallfirst", "-n", "smallfirst-system", "--timeout", "60s"))

    def test_commands_in_the_readme(self) -> None:
        """The commands for a cluster that is there, as they stand; only the namespace is the test's own."""
        commands = [text for text in blocks("console") if text.startswith("helm ")]
        self.assertEqual(len(commands), 1)
        self.addCleanup(delete_namespace, "e2e-readme")
        with tempfile.TemporaryDirectory() as folder:
            for line in commands[0].splitlines():
                words = [re.sub(r"^ai$", "e2e-readme", word) for word in shlex.split(line)]
                for at, word in enumerate(words):
                    file = demo.ROOT / word
                    if file.is_file():
                        words[at] = str(Path(folder) / file.name)
                        Path(words[at]).write_text(re.sub(r"namespace: ai\b", "namespace: e2e-readme", file.read_text("utf-8")))
                    elif file.is_dir():
                        words[at] = str(file)
                shown = run(*words)
        for name in ("compact", "frontier", "small-first", "assistants"):
            self.assertIn(f"/{name} ", shown)
