"""The API server's audit log: who wrote what. A window begins where the log ends when it is made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

READS = {"get", "list", "watch"}
# The operator's and the routers' ServiceAccounts.
OPERATOR = "system:serviceaccount:smallfirst-system:smallfirst"


def ours(user: str) -> bool:
    return user == OPERATOR or (user.startswith("system:serviceaccount:") and user.endswith("-router"))


class Window:
    def __init__(self) -> None:
        self.log = Path(os.environ["E2E_RUN_DIR"]) / "audit.log"
        self.start = self.log.stat().st_size

    def requests(self) -> list[dict[str, Any]]:
        """smallfirst's requests since the window's begin."""
        with self.log.open("rb") as log:
            log.seek(self.start)
            # The last line may be half written.
            lines = [line for line in log if line.endswith(b"\n")]
        found = [json.loads(line) for line in lines]
        return [each for each in found if ours(each["user"]["username"])]

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
