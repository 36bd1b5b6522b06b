"""Transfers between devices in a compiled program: kind, bytes, who with whom. Read `Collective`.

How long they take on a given interconnect is in `roofline.py`.
"""

import dataclasses
import math
import re

import numpy as np

from tokenrec_jax.ahead_of_time.hlo import ArrayShape, Computation, Instruction

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One transfer.

    Attributes:
      kind: one of KINDS.
      shapes: the whole arrays: results of a gather, operands of a scatter.
      times: how often it happens in a run of the program.
      group: partitions of one group, among which it happens; empty: all of them.
      op_name: operation of the model that asked for it.
    """

    kind: str
    shapes: tuple[ArrayShape, ...]
    times: int
    group: tuple[int, ...]
    op_name: str

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole arrays, once."""
        return sum(shape.num_bytes for shape in self.shapes)

    def wire_bytes(self, num_partitions: int) -> float:
        """Bytes that each device sends, once, by the best known algorithm on a ring."""
        size = len(self.group) or num_partitions
        share = {"all-reduce": 2.0, "collective-permute": size / max(size - 1, 1), "collective-broadcast": 1.0}
        return self.num_bytes * share.get(self.kind, 1.0) * (size - 1) / size


def read_collective(line: Instruction, scope: Computation, *, kind: str, times: int) -> Collective:
    """Returns the transfer that an instruction is; `scope` holds its operands."""
    sources = tuple(shape for name in line.operands if name in scope for shape in scope[name].shapes)
    if kind == "reduce-scatter":
        shapes = sources
    elif line.opcode.endswith("-start") and kind != "all-reduce":
        # (operands, results, contexts)
        shapes = line.shapes[len(sources) : 2 * len(sources)]
    else:
        shapes = line.shapes
    return Collective(kind=kind, shapes=shapes, times=times, group=_group(line.attributes), op_name=line.op_name)


def _group(attributes: str) -> tuple[int, ...]:
    """Returns the first group of partitions; empty if all of them are in one or the form is not known."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return (int(pairs[1]), int(pairs[2]))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return tuple(int(part) for part in listed[1].split(","))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        return tuple(_iota(iota[2], iota[3]).reshape(_sizes(iota[1]))[0].tolist())
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}", attributes
    ):
        axes = re.findall(r"'([^']+)'=(\d+)", mesh[1])
        devices = _iota(mesh[2] or ",".join(size for _, size in axes), mesh[3]).reshape([int(size) for _, size in axes])
        chosen = re.findall(r"'([^']+)'", mesh[4])
        index = tuple(slice(None) if name in chosen else 0 for name, _ in axes)
        return tuple(np.ravel(devices[index]).tolist())
    return ()


def _iota(sizes: str, permutation: str | None) -> np.ndarray:
    """Returns 0, 1, 2, ... in a shape, transposed if there is a permutation."""
    shape = _sizes(sizes)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return numbers.transpose(_sizes(permutation)) if permutation else numbers


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
