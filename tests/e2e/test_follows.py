"""Each thing that an autoscaler can do wrong is seen. Needs no cluster."""

from __future__ import annotations

import unittest
from typing import Any

import follows

PHASES = ((1.0, 30), (5.0, 60), (1.0, 60))


def seen(replicas: list[tuple[int, int]], floor: int = 1, ceiling: int = 4) -> list[dict[str, Any]]:
    """So many replicas until a second."""
    rows, at = [], 0
    for number, until in replicas:
        rows += [{"at": float(second), "replicas": number, "floor": floor, "ceiling": ceiling} for second in range(at, until)]
        at = until
    return rows


GOOD = seen([(1, 40), (3, 70), (4, 120), (2, 150)])


class Follows(unittest.TestCase):
    def problem(self, series: list[dict[str, Any]]) -> str:
        return "; ".join(follows.problems(series, PHASES, 4))

    def test_one_that_follows_has_no_problem(self) -> None:
        self.assertEqual(self.problem(GOOD), "")
        # A bound that moves is reached a little later.
        raised = [now | {"floor": 3 if 35 <= now["at"] < 120 else 1} for now in GOOD]
        self.assertEqual(self.problem(raised), "")
        # It can't fall below one that stays.
        held = [now | {"floor": 4 if now["at"] >= 40 else 1} for now in seen([(1, 40), (4, 150)])]
        self.assertEqual(self.problem(held), "")

    def test_what_goes_wrong_is_said(self) -> None:
        for series, wanted in (
            (seen([(1, 150)]), "1 replicas before the peak, at most 1 during it"),
            (seen([(1, 40), (4, 150)]), "at most 4 replicas during the peak, 4 at the end"),
            (seen([(1, 40), (5, 90), (1, 150)]), "more than 4"),
            (seen([(1, 40), (3, 90), (1, 150)], floor=5), "the floor is above the ceiling"),
            (seen([(1, 40), (3, 90), (1, 150)], floor=2), "not between floor and ceiling for more than 20 s"),
            (seen([(1, 40), (4, 90), (1, 150)], ceiling=3), "not between floor and ceiling for more than 20 s"),
            (seen([(1, 40), (3, 50), (2, 60), (3, 90), (1, 150)]), "the replicas turned round 3 times"),
            (seen([(1, 40), (3, 90), (1, 150)], ceiling=0), "there was no autoscaler"),
            (GOOD[:50] + GOOD[70:], "nothing was seen from 49 s to 70 s"),
            (GOOD[::4], "only 38 rows were seen"),
            (GOOD[:30], "only 30 rows were seen"),
        ):
            self.assertIn(wanted, self.problem(series))


if __name__ == "__main__":
    unittest.main()
