"""Counts what a compiled program does, loops included.

XLA's own cost analysis counts the body of a loop once, however often it runs, and every training step lies in a loop.

What crosses between devices is counted as a ring of the n devices of a group sends it, which is the least that any way
needs of each device where all send alike; S are the bytes that a device gives to the operation:

    all-reduce                       2 (n - 1) / n S    parts are added on their way round, then sums go round
    all-gather                       (n - 1) S          n - 1 of the n parts of the result pass through each device
    reduce-scatter, all-to-all       (n - 1) / n S      all but the device's own part
    collective-permute, -broadcast   S
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterator

_BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=]*)\]")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
_NAME = re.compile(r"%([\w.\-]+)")
_GROUPS_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_GROUPS_COUNTED = re.compile(r"replica_groups=\[([\d,]+)\]<=")
_DEVICES = re.compile(r"(?:replica_count|num_partitions)=(\d+)")
_SENT: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}
"""Bytes that each of n devices sends for each byte that it gives to a collective."""
# They move no bytes: names for what is there, and calls, whose bytes are those of what they call.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "partition-id", "replica-id", "opt-barrier", "domain",
}  # fmt: skip
# Of these, only the slice moves.
_SLICES = {"dynamic-slice", "slice", "gather"}
_NO_ARITHMETIC = {
    *_FREE, *_SLICES, "copy", "broadcast", "reshape", "transpose", "concatenate", "pad", "iota", "reverse", "scatter",
    "dynamic-update-slice", "convert", "bitcast-convert", "fusion", "custom-call", "select", "compare", "and", "or",
    "not", "xor", "shift-left", "shift-right-logical", "shift-right-arithmetic", "sort", "rng-bit-generator",
    *_SENT,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a program does on one device.

    Attributes:
      flops: Additions and multiplications of floating point numbers.
      bytes: Read and written by operations; what stays in a cache between two operations is counted, too.
      sent: Bytes to other devices, as a ring sends them; see above.
      collectives: Operations for which devices wait for each other.
      loops_of_unknown_length: Whose bodies are counted once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    sent: float = 0.0
    collectives: float = 0.0
    loops_of_unknown_length: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.sent + other.sent,
            self.collectives + other.collectives,
            self.loops_of_unknown_length + other.loops_of_unknown_length,
        )

    def times(self, count: float) -> "Cost":
        """Repeats it."""
        return Cost(
            self.flops * count,
            self.bytes * count,
            self.sent * count,
            self.collectives * count,
            self.loops_of_unknown_length,
        )


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def kind(self) -> str:
        """The operation, where it is only started here."""
        return self.opcode.removesuffix("-start")


def _elements(shape: str) -> list[tuple[str, int]]:
    """Lists type and number of elements of each array of a shape."""
    return [
        (kind, math.prod(int(side.lstrip("<=")) for side in sides.split(",") if side))
        for kind, sides in _ARRAY.findall(shape)
    ]


def _bytes(shape: str) -> int:
    def bits(kind: str) -> int:
        found = re.search(r"\d+", kind)
        return _BITS.get(kind, int(found.group()) if found else 0)

    return sum(count * bits(kind) // 8 for kind, count in _elements(shape))


def _balanced(text: str, start: int) -> int:
    """Returns the place behind the bracket that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _instruction(line: str) -> _Instruction | None:
    name, equals, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals or not name.startswith("%"):
        return None
    end = _balanced(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:end], rest[end:].strip()
    opening = rest.find("(")
    if opening < 0:
        return None
    closing = _balanced(rest, opening)
    operands = tuple(_NAME.findall(rest[opening:closing]))
    return _Instruction(name[1:], shape, rest[:opening], operands, rest[closing:])


def _computations(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Parts a program into its computations, and names the one that it starts with."""
    computations: dict[str, list[_Instruction]] = {}
    current, entry = "", ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            current = line.removeprefix("ENTRY ").lstrip("%").split(" ")[0].split("(")[0]
            computations[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif current and (found := _instruction(line)):
            computations[current].append(found)
    return computations, entry


def cost(text: str) -> Cost:
    """Counts a compiled program.

    Args:
      text: `compiled.as_text()`.

    Returns:
      What one run of it does on one device.
    """
    computations, entry = _computations(text)
    devices = math.prod(int(count) for count in _DEVICES.findall(text.partition("\n")[0]))

    @functools.cache
    def shapes(name: str) -> dict[str, _Instruction]:
        return {one.name: one for one in computations.get(name, [])}

    @functools.cache
    def of(name: str, fused: bool) -> Cost:
        return sum(
            (_of_instruction(one, shapes(name), fused, of, devices) for one in computations.get(name, [])),
            Cost(),
        )

    return of(entry, False)


def _called(one: _Instruction) -> Iterator[str]:
    yield from _CALLED.findall(one.attributes)


def _of_instruction(one: _Instruction, known: dict[str, _Instruction], fused: bool, of, devices: int) -> Cost:
    if one.opcode.endswith(("-done", "-update")):  # of what was counted when it started
        return Cost()
    moved = 0 if fused else _moved(one, known)
    if one.opcode == "while":
        trips = _TRIPS.search(one.attributes)
        inside = sum((of(name, fused) for name in _called(one)), Cost())
        return inside.times(int(trips.group(1)) if trips else 1) + Cost(
            loops_of_unknown_length=int(not trips)
        )
    if one.opcode == "conditional":
        names = [
            *_called(one),
            *(n for part in _BRANCHES.findall(one.attributes) for n in _NAME.findall(part)),
        ]
        branches = [of(name, fused) for name in names]
        # One of them runs; the dearest is counted.
        return max(branches, key=lambda c: (c.flops, c.bytes, c.sent), default=Cost())
    if one.opcode in ("fusion", "call", "async-start"):
        inside = sum((of(name, fused or one.opcode == "fusion") for name in _called(one)), Cost())
        return inside + Cost(bytes=moved)
    if one.kind in _SENT:
        sent = _SENT[one.kind](_group(one.attributes, devices)) * _given(one, known)
        return Cost(bytes=moved, sent=sent, collectives=1)
    return Cost(_flops(one, known), moved)


def _group(attributes: str, devices: int) -> int:
    """Returns how many devices take part in a collective, as `{{0,1},{2,3}}` or `[2,2]<=[4]` has it.

    Empty groups are one of all devices.
    """
    if counted := _GROUPS_COUNTED.search(attributes):
        return int(counted.group(1).split(",")[-1])
    if listed := _GROUPS_LISTED.search(attributes):
        return max(group.count(",") + 1 for group in listed.group(1).split("},{"))
    return devices


def _given(one: _Instruction, known: dict[str, _Instruction]) -> int:
    return sum(_bytes(known[name].shape) for name in one.operands if name in known)


def _moved(one: _Instruction, known: dict[str, _Instruction]) -> int:
    if one.opcode in _FREE or one.opcode == "async-start":
        return 0
    written = _bytes(one.shape)
    if one.opcode in _SLICES:
        return 2 * written
    if one.opcode == "dynamic-update-slice" and len(one.operands) > 1 and one.operands[1] in known:
        return 2 * _bytes(known[one.operands[1]].shape)
    if one.opcode.endswith("-start") and one.kind != "all-reduce":  # its shape has operands, then results
        return written
    return written + _given(one, known)


def _flops(one: _Instruction, known: dict[str, _Instruction]) -> float:
    arrays = _elements(one.shape)
    written = arrays[0][1] if arrays else 0
    if one.opcode == "dot" and one.operands[0] in known:
        axes = _CONTRACTED.search(one.attributes)
        return 2.0 * written * _extent(known[one.operands[0]].shape, axes.group(1) if axes else "")
    if one.opcode == "convolution" and one.operands[1] in known:
        return 2.0 * written * _window(one, known[one.operands[1]].shape)
    if one.opcode == "custom-call" and "__cublas" in one.attributes and one.operands[0] in known:
        return 2.0 * written * _extent(known[one.operands[0]].shape, _cublas_axes(one.attributes))
    if one.opcode in ("reduce", "reduce-window"):
        return float(sum(_elements(known[n].shape)[0][1] for n in one.operands[:1] if n in known))
    is_float = bool(arrays) and arrays[0][0].startswith(("f", "bf", "c"))
    return float(written) if is_float and one.kind not in _NO_ARITHMETIC else 0.0


def _extent(shape: str, axes: str) -> int:
    found = _ARRAY.search(shape)
    sides = [int(side.lstrip("<=")) for side in found.group(2).split(",") if side] if found else []
    return math.prod(sides[int(axis)] for axis in axes.split(",") if axis)


def _window(one: _Instruction, kernel: str) -> float:
    """Products for each output of a convolution: the kernel's elements for each of its outputs."""
    labels = re.search(r"dim_labels=\w+_(\w+)->", one.attributes)
    elements = _elements(kernel)[0][1]
    outputs = _extent(kernel, str(labels.group(1).index("o"))) if labels else 1
    return elements / max(outputs, 1)


def _cublas_axes(attributes: str) -> str:
    found = re.search(r'"lhs_contracting_dimensions":(\[[^\]]*\])', attributes)
    return ",".join(json.loads(found.group(1))) if found else ""
