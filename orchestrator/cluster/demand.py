"""The demand of steps, in cores and accelerators, and what a cluster has or may grow to for it: pure bookkeeping.

A step that fits nowhere is refused before anything runs, with what there is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.errors import PlacementError
from orchestrator.steps.step import Resources, Step


@dataclass(frozen=True, order=True)
class Demand:
    """Cores and accelerators."""

    cpus: float = 0.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpus:g} cores and {self.gpus:g} GPUs"

    def __add__(self, other: Demand) -> Demand:
        return Demand(self.cpus + other.cpus, self.gpus + other.gpus)

    def __sub__(self, other: Demand) -> Demand:
        return Demand(self.cpus - other.cpus, self.gpus - other.gpus)

    def fits(self, room: Demand) -> bool:
        """True if `room` holds this. Fractions are compared with Ray's own granularity, 1e-4."""
        return self.cpus <= room.cpus + 1e-4 and self.gpus <= room.gpus + 1e-4


@dataclass(frozen=True)
class ScaleLimit:
    """What a cluster that grows on demand may grow to: `machines` of `each`, and how long one may take to come."""

    machines: int
    each: Demand
    seconds: float = 900.0

    @classmethod
    def parse(cls, text: str) -> ScaleLimit:
        """Read "8x16" (8 machines of 16 cores) or "8x16+4" (and 4 accelerators each).

        Raises:
            ValueError: it is written otherwise.
        """
        match = re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+))?", text.strip())
        if match is None or not int(match[1]):
            raise ValueError(f"cannot read '{text}': write MACHINESxCORES or MACHINESxCORES+GPUS, as in 8x16+4")
        return cls(int(match[1]), Demand(float(match[2]), float(match[3] or 0)))

    @property
    def total(self) -> Demand:
        """Of all machines together."""
        return Demand(self.machines * self.each.cpus, self.machines * self.each.gpus)


@dataclass(frozen=True)
class StepDemand:
    """What a step asks for: `workers` processes that need `each`, on different machines if `spread` and possible."""

    workers: int
    each: Demand
    spread: bool = False

    @classmethod
    def of(cls, resources: Resources) -> StepDemand:
        """The demand of a step with these resources."""
        spread = resources.spread and resources.workers > 1
        return cls(resources.workers, Demand(float(resources.cpus), float(resources.gpus)), spread)

    @property
    def total(self) -> Demand:
        """Of all workers together."""
        return Demand(self.workers * self.each.cpus, self.workers * self.each.gpus)

    def fits_on(self, machines: Iterable[Demand], apart: bool = False) -> bool:
        """True if all workers find room on machines with so much free, none split; `apart`: each on its own."""
        places = 0
        for machine in machines:
            # 1e-4 is what Ray counts in: three processes of a third of a GPU do fit.
            counts = [int((machine.cpus + 1e-4) / self.each.cpus)]
            if self.each.gpus:
                counts.append(int((machine.gpus + 1e-4) / self.each.gpus))
            places += max(0, min(*counts, 1) if apart else min(counts))
        return places >= self.workers


def checked_slots(
    steps: Sequence[Step], machines: Sequence[Demand], slots: int | None, scale: ScaleLimit | None = None
) -> int:
    """The number of slots to use, once every step fits.

    Args:
        steps: what is to run.
        machines: what the cluster has.
        slots: what the user wants; None for one a core.
        scale: what the cluster may grow to.

    Raises:
        PlacementError: a step, or the number of slots, needs more than the cluster has and may grow to.
    """
    cores = sum(machine.cpus for machine in machines)
    gpus = sum(machine.gpus for machine in machines)
    has = f"the cluster has {cores:g} cores and {gpus:g} GPUs on {len(machines)} machine(s)"
    if scale is not None:
        cores = max(cores, scale.total.cpus)
        has += f", and may grow to {scale.machines} with {scale.each.cpus:g} cores and {scale.each.gpus:g} GPUs each"
    if slots is not None and slots < 1:
        raise PlacementError(f"{slots} slots can run nothing: use 1 or more")
    if slots is not None and slots > max(cores, 1):
        raise PlacementError(f"{slots} slots need {slots} cores, and {has}: use at most {max(int(cores), 1)} slots")
    checked: set[Resources] = set()
    for step in steps:
        if step.resources in checked:
            continue
        checked.add(step.resources)
        demand = StepDemand.of(step.resources)
        if demand.workers < 1 or demand.each.cpus <= 0:
            raise PlacementError(f"'{step.label}' asks for {step.resources}: a step needs at least 1 worker and a core")
        if not demand.fits_on(machines) and not (scale and demand.fits_on([scale.each] * scale.machines)):
            raise PlacementError(
                f"'{step.label}' needs {demand.workers} worker(s) with {demand.each.cpus:g} cores and "
                f"{demand.each.gpus:g} GPUs each, and {has}: ask for fewer workers, or give the address of a larger one"
            )
    return slots if slots is not None else max(int(cores), 1)
