"""Seconds that a program takes at least on a chip: arithmetic, memory, interconnect. Read `roofline`.

The three are thought to overlap completely, so the largest one binds. A real step takes longer.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tokenrec_jax.ahead_of_time.chips import Chip
from tokenrec_jax.ahead_of_time.collectives import Collective
from tokenrec_jax.ahead_of_time.costs import Costs

#: Place of a device in the interconnect, one number a dimension.
Place = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Lower bounds of the time of one step.

    Attributes:
      compute: the multipliers, at their peak.
      hbm: main memory, at its bandwidth.
      interconnect: transfers between chips, one after another, each over all links that its group has.
    """

    compute: float
    hbm: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self.compute, self.hbm, self.interconnect)

    @property
    def bound_by(self) -> str:
        """Name of the largest."""
        return max(("compute", "hbm", "interconnect"), key=lambda name: getattr(self, name))

    def allowed_mfu(self, model_flops: float, chip: Chip) -> float:
        """Returns the share of the peak that operations which the model needs take, if a step takes no longer."""
        return model_flops / chip.peak_flops / self.seconds if self.seconds else 0.0


def roofline(costs: Costs, chip: Chip, places: Sequence[Place]) -> Roofline:
    """Returns the bounds of a program on a chip; `places` are those of the devices in the order of the mesh."""
    transfers = math.fsum(item.times * transfer_seconds(item, chip, places) for item in costs.collectives)
    return Roofline(
        compute=costs.multiplier_flops / chip.peak_flops,
        hbm=costs.hbm_bytes / chip.hbm_bandwidth,
        interconnect=transfers,
    )


def transfer_seconds(item: Collective, chip: Chip, places: Sequence[Place]) -> float:
    """Returns the time of one transfer, each dimension of the interconnect that its group spans working at once."""
    group = [places[index] for index in item.group] or list(places)
    if len(group) < 2:
        return 0.0
    links = 0
    for axis in range(len(group[0])):
        extent = {place[axis] for place in group}
        whole = {place[axis] for place in places}
        # A ring is entered from both sides; the end of a row, which waits longest, has one neighbour.
        ring = extent == whole and len(whole) % chip.wraps_at == 0 and len(whole) > 2
        links += 0 if len(extent) < 2 else 2 if ring else 1
    return item.wire_bytes(len(places)) / (chip.link_bandwidth * max(links, 1))


def places_of(devices: Sequence[Any]) -> list[Place]:
    """Returns where the devices of a mesh stand."""
    return [tuple(device.coords) for device in devices]
