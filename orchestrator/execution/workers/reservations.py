"""Reservations of cores that nobody uses: a Ray Train controller that dies while its workers start leaves them so.

Ray Train's own cleaner knows a reservation only once its workers run, and groups go without it
(`trainer.group_trainer`). So the owner of placement looks itself: a reservation of this run that holds cores, that no
worker group has claimed, and in which nothing has started for `UNUSED_SECONDS`, is given back. Those of a driver that
was killed go with its job.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass, field

UNUSED_SECONDS = 60.0
#: Ray gives each bundle of a reservation so much of a resource of its own; an actor in it takes a little.
WHOLE = 1000.0


@dataclass
class Reservations:
    """The reservations of this driver that lie idle, each with the time since when."""

    idle_since: dict[str, float] = field(default_factory=dict)

    def give_back(self, claimed: Collection[str]) -> list[str]:
        """Release what has lain idle for long; gives the ids. `claimed`: those of groups whose workers are up."""
        idle = idle_reservations() - set(claimed)
        now = time.monotonic()
        self.idle_since = {name: self.idle_since.get(name, now) for name in idle}
        lost = [name for name, since in self.idle_since.items() if now - since > UNUSED_SECONDS]
        for name in lost:
            with contextlib.suppress(Exception):
                release(name)
        return lost


def idle_reservations() -> set[str]:
    """Placement groups of this driver that hold cores and have no process in them."""
    import ray
    from ray.util import placement_group_table

    mine = ray.get_runtime_context().get_job_id()
    # The id of a placement group ends with its job's: other drivers' are left alone.
    held = {
        name: about["bundles"]
        for name, about in placement_group_table().items()
        if name.endswith(mine) and about["state"] == "CREATED"
    }
    free = ray.available_resources() if held else {}
    return {
        name
        for name, bundles in held.items()
        if any("CPU" in bundle or "GPU" in bundle for bundle in bundles.values())
        and free.get(f"bundle_group_{name}", 0.0) >= WHOLE * len(bundles)
    }


def places(reservations: Collection[str]) -> dict[str, tuple[str, ...]]:
    """By reservation, the machines that hold it: one for each worker, none once it is given back."""
    from ray.util import placement_group_table

    table = placement_group_table() if reservations else {}
    held = {name: about for name, about in table.items() if about["state"] != "REMOVED"}
    return {name: tuple(held[name]["bundles_to_node_id"].values()) if name in held else () for name in reservations}


def release(reservation: str) -> None:
    """Give back the cores of a group whose trainer was killed: Ray does so only when the driver ends."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(reservation))))
