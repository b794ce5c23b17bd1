"""The API server's audit log: who wrote what, and how many replicas. A window begins where the log ends when it is made."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READS = {"get", "list", "watch"}
# The operator's and the routers' ServiceAccounts.
OPERATOR = "system:serviceaccount:smallfirst-system:smallfirst"


def ours(user: str) -> bool:
    return user == OPERATOR or (user.startswith("system:serviceaccount:") and user.endswith("-router"))


@dataclass(frozen=True)
class Write:
    """A write to a Deployment or a ModelTier, or its `/scale`."""

    # The program that asked, as it calls itself.
    agent: str
    is_ours: bool
    resource: str
    # How many it asks for. None: it leaves them as they are.
    replicas: int | None


def against(history: list[Write]) -> list[Write]:
    """Our writes of replicas to a Deployment that nobody had asked its tier for since the one before. `history` has all writes
    to both; what was asked for and replaced before we wrote need not be written."""
    asked: list[int] = []
    found = []
    for each in history:
        if each.replicas is None:
            continue
        if each.resource == "modeltiers":
            asked.append(each.replicas)
        elif each.is_ours and each.replicas in asked:
            # The oldest such: what was asked for after it may still be written.
            asked = asked[asked.index(each.replicas) + 1 :]
        elif each.is_ours:
            found.append(each)
    return found


def taken_away(history: list[Write], present: int) -> list[Write]:
    """Our writes that ask for fewer replicas than whoever scaled last, from so many on."""
    found = []
    for each in history:
        if each.replicas is None:
            continue
        if not each.is_ours:
            present = each.replicas
        elif each.replicas < present:
            found.append(each)
    return found


class Window:
    def __init__(self, log: Path | None = None) -> None:
        self.log = log or Path(os.environ["E2E_RUN_DIR"]) / "audit.log"
        self.start = self.log.stat().st_size

    def events(self) -> list[dict[str, Any]]:
        """Everybody's requests since the window's begin, as they were answered."""
        with self.log.open("rb") as log:
            log.seek(self.start)
            # The last line may be half written.
            return [json.loads(line) for line in log if line.endswith(b"\n")]

    def requests(self) -> list[dict[str, Any]]:
        """smallfirst's among them."""
        return [each for each in self.events() if ours(each["user"]["username"])]

    def history(self, namespace: str, *objects: tuple[str, str]) -> list[Write]:
        """Everybody's writes to these (resource and name) and their `/scale`, in the order in which they were asked for."""
        found = []
        for each in self.events():
            ref = each.get("objectRef", {})
            named = (ref.get("resource", ""), ref.get("name", ""))
            done = each["responseStatus"].get("code", 0) < 300 and each["verb"] not in READS
            if not done or ref.get("namespace") != namespace or named not in objects or ref.get("subresource") not in (None, "scale"):
                continue
            spec = each.get("requestObject", {}).get("spec", {})
            if named[0] == "modeltiers" and "subresource" not in ref:
                spec = spec.get("pool", {})
            write = Write(each["userAgent"].split(" ")[0], ours(each["user"]["username"]), named[0], spec.get("replicas"))
            found.append((each["requestReceivedTimestamp"], write))
        return [write for _, write in sorted(found, key=lambda pair: pair[0])]

    def writes(self) -> list[str]:
        """`VERB RESOURCE[/SUBRESOURCE] NAMESPACE/NAME` of every write, but for the Lease and access reviews."""
        found = []
        for each in self.requests():
            if each["verb"] in READS:
                continue
            ref = each["objectRef"]
            if ref["resource"] in ("leases", "selfsubjectaccessreviews", "tokenreviews"):
                continue
            resource = "/".join(filter(None, (ref["resource"], ref.get("subresource"))))
            found.append(f"{each['verb']} {resource} {ref.get('namespace', '')}/{ref.get('name', '')}")
        return found

    def refused(self) -> list[str]:
        """What the API server did not allow: rights that are missing."""
        return [
            f"{each['verb']} {each['requestURI']}" for each in self.requests() if each["responseStatus"].get("code") == 403
        ]
