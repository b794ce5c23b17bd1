"""Load that grows fivefold and falls again: an autoscaler follows between floor and ceiling, and no client notices.

The pool and the load are those of `peak.py`; the autoscaler is a HorizontalPodAutoscaler. Meanwhile others scale tiers of
their own (`others.py`). The series goes to target/e2e/scaling.json, drawn in scaling.svg beside it.
"""

from __future__ import annotations

from others import Others
from peak import MANIFEST, POOL, Peak, serves
from portfolio import kubectl


class Scaling(Peak):
    """In the order of their names: the second looks at what happened during the first."""

    others: Others

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        serves("metricsApi", True)
        cls.addClassCleanup(serves, "metricsApi", False)
        cls.others = Others(POOL)
        cls.addClassCleanup(kubectl, "delete", "-f", "-", "--wait=false", stdin=cls.others.manifest)

    def test_an_autoscaler_follows_a_peak_between_floor_and_ceiling_and_nobody_is_refused(self) -> None:
        self.followed(self.peak(self.start(MANIFEST), "scaling"))

    def test_others_who_scale_a_tier_are_not_fought_for_five_minutes(self) -> None:
        self.others.check(self)
