"""The published figures of the chips that we compile for. Read `CHIPS`.

Clocks are not published; they follow from the peak and the number of multiplier cells, and turn the cycles that the
compiler's own cost model writes beside each fusion into seconds.
"""

import dataclasses

from tokenrec_jax.types import ConfigError

_GIB = 1024**3
_DOCS = "https://cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
      name: as in the names of topologies.
      peak_flops: bfloat16 multiply-adds a second, times two.
      hbm_bytes: memory that the compiler may use, which is a little less than is sold.
      hbm_bandwidth: bytes a second.
      link_bandwidth: bytes a second along one link of the interconnect in one direction.
      torus_dims: dimensions of the interconnect; a chip has two links in each.
      wraps_at: sizes of a dimension that close to a ring are multiples of this; the ends of others have one link.
      clock: cycles a second of the TensorCore.
      source: where peak, memory bandwidth and interconnect bandwidth are published.
    """

    name: str
    peak_flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    link_bandwidth: float
    torus_dims: int
    wraps_at: int
    clock: float
    source: str

    @property
    def ridge(self) -> float:
        """Operations a byte of memory traffic above which arithmetic is what takes the time."""
        return self.peak_flops / self.hbm_bandwidth

    def core(self, cores: int) -> "Chip":
        """Returns the share of one of `cores` devices on a chip; JAX sees each TensorCore of a v4 as a device."""
        return dataclasses.replace(
            self,
            peak_flops=self.peak_flops / cores,
            hbm_bytes=self.hbm_bytes // cores,
            hbm_bandwidth=self.hbm_bandwidth / cores,
            link_bandwidth=self.link_bandwidth / cores,
        )


#: `link_bandwidth` is the published interconnect bandwidth of the chip (one direction: 2,400, 1,600, 4,800 and 3,200
#: Gbit/s; newer pages give the sum of both directions in bytes) divided by its links. `hbm_bytes` is what libtpu
#: 0.0.42 says that it has when a program does not fit.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, int(30.5 * _GIB), 1200e9, 50e9, 3, 4, 1.05e9, _DOCS + "v4"),
        Chip("v5e", 197e12, int(15.75 * _GIB), 819e9, 50e9, 2, 16, 1.5e9, _DOCS + "v5e"),
        Chip("v5p", 459e12, int(95.74 * _GIB), 2765e9, 100e9, 3, 4, 1.75e9, _DOCS + "v5p"),
        Chip("v6e", 918e12, int(31.25 * _GIB), 1600e9, 100e9, 2, 16, 1.75e9, _DOCS + "v6e"),
    )
}


def chip_of(topology: str) -> Chip:
    """Returns the chip of a topology's name such as v5e:2x4.

    Raises:
      ConfigError: no chip that we know.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(f"--topology={topology}: unknown chip {name!r}; allowed: {', '.join(CHIPS)}, as in v5e:2x4")
    return CHIPS[name]
