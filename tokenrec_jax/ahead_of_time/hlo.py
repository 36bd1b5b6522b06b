"""Reads the text of a compiled XLA program: computations, instructions, shapes, loops. Read `parse`.

Only structure; what it costs is in `costs.py`. Made for scheduled programs of the TPU and the CPU compiler.
"""

import dataclasses
import math
import re

_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32,
    "s64": 64, "u64": 64, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64,
    "c128": 128,
}  # fmt: skip

_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\dm\d(?:fn)?)?)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\([^\n]*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|[^\s(]\S*) ([a-z][a-z0-9\-]*)\((.*)$")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{"?n"?[:=]"?(\d+)')


@dataclasses.dataclass(frozen=True)
class ArrayShape:
    """An array of a program.

    Attributes:
      dtype: XLA's name of the element type.
      dims: sizes.
      space: memory that it lies in: 0 is the main one (HBM), others are on the chip.
      num_bytes: with the padding of its tiles.
    """

    dtype: str
    dims: tuple[int, ...]
    space: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: unique in its computation.
      opcode: XLA's.
      shapes: of the result, in the order of its tuple if it is one.
      operands: names of instructions; for parameters and constants the text between the parentheses.
      attributes: everything after the operands.
      is_root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[ArrayShape, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, attribute: str) -> str | None:
        """Returns the computation named in an attribute such as calls or body."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return found[1] if found else None

    @property
    def op_name(self) -> str:
        """Where in the traced Python program it comes from."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """Computations by name, instructions of each in their order, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Program:
    """Reads what `compiled.as_text()` returns."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found)
            current[instruction.name] = instruction
        elif not line.startswith(" ") and (found := _COMPUTATION.match(line)):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
    return Program(computations=computations, entry=entry)


def parse_shapes(text: str) -> tuple[ArrayShape, ...]:
    """Returns the arrays of a type as it is printed; a tuple's in order."""
    return tuple(_shape(*found.groups()) for found in _ARRAY.finditer(text) if found[1] in _BITS)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """Returns how often the body of a while loop runs; None if it depends on data.

    The count that the compiler writes beside the loop, or, where there is none, that of a counter which goes up in even
    steps from a constant to the constant that the condition compares it with.
    """
    if known := _TRIPS.search(loop.attributes):
        return int(known[1])
    condition = program.computations.get(loop.called("condition") or "", {})
    compares = [_inside(program, line) for line in condition.values() if line.opcode in ("compare", "fusion")]
    bounds = [_constant(condition, name) for line in condition.values() for name in line.operands]
    bounds = [bound for bound in bounds if bound is not None]
    less = any(line is not None and "direction=LT" in line.attributes for line in compares)
    if not less or len(set(bounds)) != 1:
        return None
    counter = [line for line in condition.values() if line.opcode == "get-tuple-element"]
    if not counter:
        return None
    position = int(re.search(r"index=(\d+)", counter[0].attributes)[1])  # pyright: ignore[reportOptionalSubscript]
    start = _constant(computation, _element(computation, loop.operands[0], position))
    step = _step(program.computations.get(loop.called("body") or "", {}), position)
    return None if start is None or step < 1 else max(-((start - bounds[0]) // step), 0)


def _element(computation: Computation, name: str, position: int) -> str:
    """Returns the name of an element of a tuple, "" if it is not put together here."""
    line = computation.get(name)
    return line.operands[position] if line is not None and line.opcode == "tuple" else ""


def _step(body: Computation, position: int) -> int:
    """Returns what a loop adds to an element of its tuple, 1 if that is not to be seen.

    A compiler that does two trips in one steps by two.
    """
    root = next((line.name for line in body.values() if line.is_root), "")
    line = body.get(_element(body, root, position))
    while line is not None and line.opcode in ("copy", "bitcast"):
        line = body.get(line.operands[0])
    if line is None or line.opcode != "add":
        return 1
    added = [_constant(body, name) for name in line.operands]
    return next((value for value in added if value is not None), 1)


def _constant(computation: Computation, name: str) -> int | None:
    """Returns the value of an integer constant, through copies."""
    line = computation.get(name)
    while line is not None and line.opcode in ("copy", "bitcast", "convert") and line.operands:
        line = computation.get(line.operands[0])
    if line is None or line.opcode != "constant" or not re.fullmatch(r"-?\d+", line.operands[0]):
        return None
    return int(line.operands[0])


def _inside(program: Program, line: Instruction) -> Instruction | None:
    """Returns a compare itself, or the one that a fusion consists of."""
    if line.opcode == "compare":
        return line
    fused = program.computations.get(line.called("calls") or "", {})
    return next((inner for inner in fused.values() if inner.opcode == "compare"), None)


def _instruction(found: re.Match) -> Instruction:
    root, name, type_text, opcode, rest = found.groups()
    end = _closing(rest)
    inner = rest[:end]
    if opcode in ("parameter", "constant"):
        operands: tuple[str, ...] = (inner,)
    elif "%" in inner:
        operands = tuple(re.findall(r"%([\w.\-]+)", inner))
    else:
        operands = tuple(part.split()[-1] for part in inner.split(", ") if part.strip())
    return Instruction(
        name=name,
        opcode=opcode,
        shapes=parse_shapes(type_text),
        operands=operands,
        attributes=rest[end + 1 :],
        is_root=bool(root),
    )


def _closing(text: str) -> int:
    """Returns the place of the parenthesis that closes one opened before the text."""
    depth = 1
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    return len(text)


def _shape(dtype: str, dims_text: str, layout: str | None) -> ArrayShape:
    dims = tuple(int(dim.removeprefix("<=")) for dim in dims_text.split(",") if dim)
    layout = layout or ""
    padded = list(dims)
    tile = _TILE.search(layout)
    order = [int(part) for part in layout.split(":")[0].split(",") if part.strip().isdigit()]
    if tile and len(order) == len(dims):
        # The first tile covers the minormost dimensions; `order` starts with the minormost. A one-dimensional array
        # keeps its size but for the last tile.
        for axis, size in zip(order, reversed([int(part) for part in tile[1].split(",")]), strict=False):
            padded[axis] = -(-padded[axis] // size) * size
    space = _SPACE.search(layout)
    num_bytes = math.prod(padded) * _BITS[dtype] // 8
    return ArrayShape(dtype=dtype, dims=dims, space=int(space[1]) if space else 0, num_bytes=num_bytes)
