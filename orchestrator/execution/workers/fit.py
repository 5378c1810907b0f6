"""The fit of steps beside the processes that are there, and the fewest of these that must go: pure bookkeeping.

Room in sum may be too little on each machine, since no process is split. A process whose machine is not known yet may
be on any, so it is counted on every one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.cluster.demand import Demand, StepDemand

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tenant:
    """Processes of `each`: one on each of `places` (the names of machines), and `unplaced` that may be anywhere."""

    each: Demand
    places: tuple[str, ...] = ()
    unplaced: int = 0


def has_room(
    demand: StepDemand, machines: Mapping[str, Demand], tenants: Iterable[Tenant], apart: bool = False
) -> bool:
    """True if all workers of `demand` find room beside the tenants; `apart`: each on a machine of its own."""
    free = dict(machines)
    for tenant in tenants:
        everywhere = [name for name in free for _ in range(tenant.unplaced)]
        for name in (*tenant.places, *everywhere):
            if name in free:
                free[name] -= tenant.each
    return demand.fits_on(free.values(), apart)


def fewest_enough(candidates: Sequence[Item], enough: Callable[[Sequence[Item]], bool]) -> list[Item]:
    """The first candidates that are enough together, but for those that make no difference; all, if all are too few."""
    taken: list[Item] = []
    for candidate in candidates:
        if enough(taken):
            break
        taken.append(candidate)
    for candidate in tuple(reversed(taken)):
        rest = [other for other in taken if other is not candidate]
        if enough(rest):
            taken = rest
    return taken
