"""Counts what a compiled program does on one device: operations, memory traffic, collectives. Read `count`.

Loops count once a trip, of branches the longest counts. The compiler's own `cost_analysis` counts the bodies of loops
once, and its `optimal_seconds` comes out negative for whole train steps, which is why neither is used. Shapes in a
partitioned program are those of one device, and so are all figures here.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

from tokenrec_jax.ahead_of_time.collectives import KINDS, Collective, read_collective
from tokenrec_jax.ahead_of_time.hlo import ArrayShape, Computation, Instruction, Program, trip_count

#: Passes of a bfloat16 multiplier over an operand whose precision is asked for.
_PASSES = {"highest": 6, "high": 3}
#: Instructions that move no bytes: names, views, and the ends of transfers that were counted when they began.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while", "conditional", "call",
    "opt-barrier", "partition-id", "replica-id", "copy-done", "slice-done", "async-done", "async-update",
    "all-gather-done", "all-reduce-done", "collective-permute-done",
}  # fmt: skip
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Temporary:
    """One result in main memory, and the operation of the model that it comes from."""

    shape: ArrayShape
    op_name: str


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one run of a program takes on one device.

    Attributes:
      flops: of matrix products and convolutions, two a multiply-add.
      multiplier_flops: the same, where a product of float32 operands at full precision counts once a pass.
      hbm_bytes: read from and written to main memory, if what a fusion reads is read once.
      cycles: sum of the compiler's own estimates, which know the vector unit too; 0 where it gives none.
      collectives: each transfer between devices, with how often it happens.
      temporaries: largest results in main memory, largest first.
      unknown_loops: loops whose trips depend on data; they count once.
    """

    flops: float
    multiplier_flops: float
    hbm_bytes: float
    cycles: float
    collectives: tuple[Collective, ...]
    temporaries: tuple[Temporary, ...]
    unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Visit:
    """A computation that runs on its own, not inside of a fusion, and how often it does."""

    computation: Computation
    times: int


def count(program: Program, *, num_temporaries: int = 5) -> Costs:
    """Returns the costs of a program."""
    visits: list[_Visit] = []
    unknown = _schedule(program, program.computations[program.entry], 1, visits)
    flops = multiplier_flops = hbm_bytes = cycles = 0.0
    collectives: list[Collective] = []
    temporaries: dict[tuple[str, str], Temporary] = {}
    for visit in visits:
        for line in visit.computation.values():
            for product, scope in _products(program, line, visit.computation):
                found = _product_flops(product, scope)
                flops += visit.times * found
                multiplier_flops += visit.times * found * _passes(product)
            hbm_bytes += visit.times * _traffic(program, line, visit.computation)
            cycles += visit.times * _cycles(line)
            collectives += _collectives(program, line, visit)
            if line.opcode not in _FREE:
                for shape in line.shapes:
                    if shape.space == 0:
                        temporaries.setdefault((str(shape), line.op_name), Temporary(shape, line.op_name))
    largest = sorted(temporaries.values(), key=lambda item: -item.shape.num_bytes)[:num_temporaries]
    return Costs(flops, multiplier_flops, hbm_bytes, cycles, tuple(collectives), tuple(largest), unknown)


def _schedule(program: Program, computation: Computation, times: int, visits: list[_Visit]) -> int:
    """Lists all computations that run, loops by their trips; returns the number of loops with unknown trips."""
    visits.append(_Visit(computation, times))
    unknown = 0
    for line in computation.values():
        called: list[tuple[str | None, int]] = []
        if line.opcode == "while":
            trips = trip_count(program, computation, line)
            unknown += trips is None
            called = [(line.called("body"), 1 if trips is None else trips)]
        elif line.opcode == "call":
            called = [(line.called("to_apply"), 1)]
        elif line.opcode == "conditional":
            names = re.search(r"branch_computations=\{([^}]*)\}", line.attributes)
            branches = names[1].replace("%", "").split(", ") if names else []
            branches = branches or [line.called("true_computation"), line.called("false_computation")]
            called = [(_longest(program, branches), 1)]
        for name, trips in called:
            if name in program.computations and trips:
                unknown += _schedule(program, program.computations[name], times * trips, visits)
    return unknown


def _longest(program: Program, names: Iterable[str | None]) -> str | None:
    """Returns the branch that takes the most cycles, or, where the compiler estimates none, arithmetic."""

    def length(name: str | None) -> tuple[float, float]:
        visits: list[_Visit] = []
        if name in program.computations:
            _schedule(program, program.computations[name], 1, visits)
        lines = [(visit, line) for visit in visits for line in visit.computation.values()]
        cycles = math.fsum(visit.times * _cycles(line) for visit, line in lines)
        return cycles, math.fsum(visit.times * _flops(program, line, visit.computation) for visit, line in lines)

    return max(names, key=length, default=None)


def _flops(program: Program, line: Instruction, scope: Computation) -> float:
    return math.fsum(_product_flops(product, inside) for product, inside in _products(program, line, scope))


def _inner(program: Program, line: Instruction) -> Computation:
    """Returns what a fusion or an asynchronous wrapper consists of; empty for other instructions."""
    if line.opcode not in ("fusion", "async-start"):
        return {}
    return program.computations.get(line.called("calls") or "", {})


def _products(program: Program, line: Instruction, scope: Computation) -> Iterator[tuple[Instruction, Computation]]:
    """Yields the matrix products in an instruction, at any depth of fusion, with the computation that they are in."""
    if line.opcode in ("dot", "convolution"):
        yield line, scope
    inner = _inner(program, line)
    for nested in inner.values():
        yield from _products(program, nested, inner)


def _passes(line: Instruction) -> int:
    found = re.search(r"operand_precision=\{([^}]*)\}", line.attributes)
    return max((_PASSES.get(name.strip(), 1) for name in found[1].split(",")), default=1) if found else 1


def _product_flops(line: Instruction, scope: Computation) -> float:
    """Returns two operations for each multiply-add of a dot or a convolution."""
    left, right = (scope[name].shapes[0].dims for name in line.operands[:2])
    result = line.shapes[0].dims
    if line.opcode == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.attributes)
        axes = [int(axis) for axis in found[1].split(",") if axis] if found else []
        return 2.0 * math.prod(result) * math.prod(left[axis] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    if labels is None:
        return 0.0
    inputs, kernel, outputs = labels.groups()
    flops = 2.0 * result[outputs.index("b")] * result[outputs.index("f")] * right[kernel.index("i")]
    window = re.search(r"window=\{([^}]*)\}", line.attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    for spatial in range(len(inputs) - 2):
        digit = str(spatial)
        flops *= _taps(
            fields,
            spatial,
            size_in=left[inputs.index(digit)],
            size_out=result[outputs.index(digit)],
            size=right[kernel.index(digit)],
        )
    return flops


def _taps(fields: dict[str, str], spatial: int, *, size_in: int, size_out: int, size: int) -> int:
    """Returns the pairs of output place and kernel place along one dimension that meet an element of the input.

    The TPU compiler writes the batch of a batched matrix product as a dimension with dilations such that each output
    meets one element only; the product of all sizes would count it squared.
    """

    def field(name: str, default: str) -> list[int]:
        return [int(part) for part in fields.get(name, default).split("x")[spatial].split("_")]

    def one(name: str) -> int:
        many = "x".join(["1"] * len(fields.get("size", "1").split("x")))
        return field(name, many)[0]

    low = field("pad", "x".join(["0_0"] * len(fields.get("size", "1").split("x"))))[0]
    place = np.arange(size_out)[:, None] * one("stride") - low + np.arange(size)[None, :] * one("rhs_dilate")
    dilation = one("lhs_dilate")
    return int(np.sum((place >= 0) & (place <= (size_in - 1) * dilation) & (place % dilation == 0)))


def _cycles(line: Instruction) -> float:
    found = re.search(r'"estimated_cycles":"(\d+)"', line.attributes)
    return float(found[1]) if found else 0.0


def _collectives(program: Program, line: Instruction, visit: _Visit) -> Iterator[Collective]:
    """Yields the transfers of an instruction.

    One that runs beside arithmetic is written into all fusions from its start to its end; it counts at the start.
    """
    inner = _inner(program, line)
    if _carries_on(line) or _ends(inner):
        return
    for item in (line, *inner.values()):
        kind = item.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        # A sum of which each device keeps its part, before the compiler gives it that name.
        scattered = item is not line and kind == "all-reduce" and "all-reduce-scatter" in (line.called("calls") or "")
        scope = visit.computation if item is line else inner
        yield read_collective(item, scope, kind="reduce-scatter" if scattered else kind, times=visit.times)


def _carries_on(line: Instruction) -> bool:
    """Returns whether a fusion computes beside a transfer that an earlier one began."""
    return (line.called("calls") or "").startswith("async_collective_fusion")


def _ends(inner: Computation) -> bool:
    """Returns whether a fusion waits for a transfer that an earlier one began."""
    return any('"AsyncCollectiveDone"' in line.attributes for line in inner.values())


def _traffic(program: Program, line: Instruction, scope: Computation) -> float:
    """Returns the bytes of main memory that an instruction reads and writes."""
    inner = _inner(program, line)
    if line.opcode in _FREE or "AllocateBuffer" in line.attributes or _ends(inner):
        return 0.0
    written = sum(shape.num_bytes for shape in line.shapes if shape.space == 0)
    operands = [scope[name] for name in line.operands if name in scope]
    sources = [sum(shape.num_bytes for shape in operand.shapes if shape.space == 0) for operand in operands]
    if line.opcode in ("copy-start", "slice-start"):
        # (result, source, context) or (source, result, context): the smaller one is what moves.
        moved = min((shape.num_bytes for shape in line.shapes[:2]), default=0)
        return float(moved * sum(shape.space == 0 for shape in line.shapes[:2]))
    if line.opcode in _SLICES:
        return 2.0 * written
    if line.opcode in ("dynamic-update-slice", "scatter"):
        update = sources[1 if line.opcode == "dynamic-update-slice" else -1]
        return 2.0 * update
    if line.opcode != "fusion" or not inner:
        return float(written + sum(sources))
    if _carries_on(line):
        # What the transfer works on is passed through; it counted at the start.
        for output, operand in re.findall(r"\{(\d+)\}: \((\d+)", line.attributes.partition("aliasing=")[2]):
            sources[int(operand)] = 0
            written -= line.shapes[int(output)].num_bytes * (line.shapes[int(output)].space == 0)
    for index, source in enumerate(sources):
        sources[index] = min(source, _read_of_parameter(program, inner, index, source))
    for updated in inner.values():
        if updated.opcode == "dynamic-update-slice" and updated.shapes[0].space == 0:
            # In place: of the whole result only the slice is written.
            whole = updated.shapes[0].num_bytes
            part = inner[updated.operands[1]].shapes[0].num_bytes
            written -= max(whole - part, 0) if written >= whole else 0
    return float(written + sum(sources))


def _read_of_parameter(program: Program, inner: Computation, index: int, whole: int) -> int:
    """Returns the bytes that a fusion reads of its operand: less than all if it only looks at slices of it."""
    name = next(
        (line.name for line in inner.values() if line.opcode == "parameter" and line.operands[0] == str(index)), None
    )
    users = [line for line in inner.values() if line.opcode != "parameter" and name in line.operands]
    read = 0
    for user in users:
        if user.opcode in _SLICES and user.operands[0] == name:
            read += user.shapes[0].num_bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            continue
        elif user.opcode == "fusion":
            nested = _inner(program, user)
            places = [place for place, operand in enumerate(user.operands) if operand == name]
            read += sum(_read_of_parameter(program, nested, place, whole) for place in places)
        else:
            return whole
    return min(read, whole)
