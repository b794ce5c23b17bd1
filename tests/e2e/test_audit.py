"""The reader of the audit log sees a fight where there is one. Needs no cluster."""

from __future__ import annotations

import json
import tempfile
import unittest
from pathlib import Path
from typing import Any

from audit import OPERATOR, Window, Write, against, taken_away


def line(at: int, user: str, verb: str, ref: dict[str, str], body: Any = None, code: int = 200) -> str:
    event = {"requestReceivedTimestamp": f"2026-01-01T00:00:{at:02}.000000Z", "verb": verb, "responseStatus": {"code": code}}
    event |= {"user": {"username": user}, "userAgent": f"{user.rsplit(':', 1)[-1]}/1 (linux)", "objectRef": {"namespace": "ai", **ref}}
    return json.dumps(event | ({"requestObject": body} if body else {})) + "\n"


def asks(replicas: int) -> Write:
    return Write("kubectl/1", False, "modeltiers", replicas)


def writes(replicas: int | None) -> Write:
    return Write("smallfirst/1", True, "deployments", replicas)


class Audit(unittest.TestCase):
    def test_what_was_asked_for_may_be_written_once(self) -> None:
        for history in (
            [],
            [asks(2), writes(2), asks(3), writes(3), asks(2), writes(2)],
            [asks(2), asks(3), writes(3), writes(None)],
            [asks(2), asks(3), writes(2), writes(3)],
            # Somebody else's.
            [Write("kubectl/1", False, "deployments", 7)],
        ):
            self.assertEqual(against(history), [], history)

    def test_a_fight_is_seen(self) -> None:
        for history, wanted in (
            ([writes(1)], [1]),
            ([asks(2), writes(2), writes(2)], [2]),
            ([asks(2), writes(2), writes(1), asks(2), writes(2), writes(1)], [1, 1]),
            ([asks(2), asks(3), writes(3), writes(2)], [2]),
        ):
            self.assertEqual([write.replicas for write in against(history)], wanted, history)

    def test_replicas_that_nobody_gave_up_are_seen_to_go(self) -> None:
        autoscaler = lambda replicas: Write("hpa/1", False, "deployments", replicas)  # noqa: E731
        handed_over = Write("smallfirst/1", True, "modeltiers", 5)
        self.assertEqual(taken_away([autoscaler(5), handed_over, writes(5), asks(4), writes(4), writes(None)], 2), [])
        self.assertEqual(taken_away([writes(1), autoscaler(5), writes(1), asks(1), writes(1)], 2), [writes(1), writes(1)])

    def test_who_wrote_what_is_read_in_its_order(self) -> None:
        tier, deployment = {"resource": "modeltiers", "name": "theirs"}, {"resource": "deployments", "name": "theirs-pool"}
        number = {"spec": {"replicas": 3}}
        autoscaler = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
        lines = [
            # Answered before what came before it.
            line(9, OPERATOR, "patch", deployment, number),
            line(1, autoscaler, "update", tier | {"subresource": "scale"}, number),
            line(2, "admin", "patch", tier, {"spec": {"pool": {"replicas": 4}}}),
            line(3, OPERATOR, "patch", tier | {"subresource": "status"}, {"status": {}}),
            line(4, OPERATOR, "get", deployment),
            line(5, OPERATOR, "patch", deployment, number, code=409),
            line(6, OPERATOR, "patch", deployment, {"spec": {"paused": False}}),
            line(7, OPERATOR, "patch", {"resource": "deployments", "name": "other"}, number),
        ]
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "audit.log"
            log.write_text(line(0, "admin", "patch", tier, number))
            window = Window(log)
            with log.open("a") as file:
                file.write("".join(lines) + '{"half')
            found = window.history("ai", ("modeltiers", "theirs"), ("deployments", "theirs-pool"))
        self.assertEqual(
            found,
            [
                Write("horizontal-pod-autoscaler/1", False, "modeltiers", 3),
                Write("admin/1", False, "modeltiers", 4),
                Write("smallfirst/1", True, "deployments", None),
                Write("smallfirst/1", True, "deployments", 3),
            ],
        )


if __name__ == "__main__":
    unittest.main()
