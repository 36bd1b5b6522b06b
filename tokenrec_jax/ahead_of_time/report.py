"""Puts a compiled step, the figures of its chip and the roofline into one table. Read `step_report`.

Estimated ahead of time, not measured: every figure is a lower bound of what a real step takes.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tokenrec_jax.ahead_of_time.costs import Costs, count
from tokenrec_jax.ahead_of_time.hlo import parse
from tokenrec_jax.ahead_of_time.roofline import places_of, roofline, transfer_seconds
from tokenrec_jax.ahead_of_time.steps import CompiledStep, Target

LABEL = "estimated ahead of time, not measured"

#: Transfers after which a device holds a whole array.
_GATHERS = ("all-gather", "all-to-all", "ragged-all-to-all", "collective-permute")


def step_report(step: CompiledStep, target: Target) -> dict[str, Any]:
    """Returns all figures of a step on one chip, in bytes, seconds and operations, ready for JSON."""
    chip = target.chip
    places = places_of(list(target.mesh.devices.flat))
    costs = count(parse(step.text))
    bounds = roofline(costs, chip, places)
    collectives: dict[str, dict[str, float]] = {}
    for item in costs.collectives:
        entry = collectives.setdefault(item.kind, {"count": 0, "bytes": 0, "sent_bytes": 0.0, "seconds": 0.0})
        entry["count"] += item.times
        entry["bytes"] += item.times * item.num_bytes
        entry["sent_bytes"] += item.times * item.wire_bytes(len(places))
        entry["seconds"] += item.times * transfer_seconds(item, chip, places)
    largest = sorted(costs.collectives, key=lambda item: -item.times * item.num_bytes)[:5]
    return {
        "hbm_bytes_per_chip": step.hbm_bytes,
        "hbm_limit_bytes": chip.hbm_bytes,
        "fits": step.hbm_bytes <= chip.hbm_bytes,
        "hbm_parts": {
            "arguments": step.arguments,
            "outputs": step.outputs,
            "temporaries": step.temporaries,
            "code": step.code,
        },
        "model_flops_per_chip": step.model_flops,
        "program_flops_per_chip": costs.flops,
        "hbm_traffic_bytes_per_chip": costs.hbm_bytes,
        "arithmetic_intensity": costs.flops / max(costs.hbm_bytes, 1.0),
        "ridge": chip.ridge,
        "roofline_seconds": dataclasses.asdict(bounds),
        "bound_by": bounds.bound_by,
        "allowed_mfu": bounds.allowed_mfu(step.model_flops, chip),
        "compiler_seconds": costs.cycles / chip.clock,
        "collectives": collectives,
        "largest_collectives": [
            {
                "kind": item.kind,
                "shapes": [str(shape) for shape in item.shapes[:4]],
                "bytes": item.num_bytes,
                "times": item.times,
                "from": item.op_name,
            }
            for item in largest
        ],
        "largest_temporaries": [
            {"shape": str(item.shape), "bytes": item.shape.num_bytes, "from": item.op_name}
            for item in costs.temporaries
        ],
        "gathers": gathers(costs, rows=target.shape.item_rows, dim=target.config.lightgcn.embedding_dim),
        "loops_of_unknown_length": costs.unknown_loops,
        "compile_seconds": step.compile_seconds,
    }


def gathers(costs: Costs, *, rows: int, dim: int) -> dict[str, bool]:
    """Returns whether a transfer brings the whole item table, or logits of all items, to one device."""
    shapes = [shape for item in costs.collectives if item.kind in _GATHERS for shape in item.shapes]
    whole = [shape for shape in shapes if rows in shape.dims]
    tables = [shape for shape in whole if set(shape.dims) <= {rows, dim, 1}]
    return {"item_table": bool(tables), "logits": len(whole) > len(tables)}


def table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the reports side by side as text."""
    rows: dict[str, Any] = {
        "HBM a chip, GiB": lambda r: f"{r['hbm_bytes_per_chip'] / 2**30:.2f}",
        "  of": lambda r: f"{r['hbm_limit_bytes'] / 2**30:.2f}",
        "  arguments": lambda r: f"{r['hbm_parts']['arguments'] / 2**30:.2f}",
        "  temporaries": lambda r: f"{r['hbm_parts']['temporaries'] / 2**30:.2f}",
        "model Tflop a chip": lambda r: f"{r['model_flops_per_chip'] / 1e12:.4g}",
        "program Tflop a chip": lambda r: f"{r['program_flops_per_chip'] / 1e12:.4g}",
        "HBM traffic, GB": lambda r: f"{r['hbm_traffic_bytes_per_chip'] / 1e9:.4g}",
        "flop a byte (ridge)": lambda r: f"{r['arithmetic_intensity']:.0f} ({r['ridge']:.0f})",
        "compute, ms": lambda r: f"{1e3 * r['roofline_seconds']['compute']:.4g}",
        "HBM, ms": lambda r: f"{1e3 * r['roofline_seconds']['hbm']:.4g}",
        "interconnect, ms": lambda r: f"{1e3 * r['roofline_seconds']['interconnect']:.4g}",
        "bound by": lambda r: r["bound_by"],
        "allowed MFU": lambda r: f"{r['allowed_mfu']:.1%}",
        "compiler's cycles, ms": lambda r: f"{1e3 * r['compiler_seconds']:.4g}",
        "collectives": lambda r: str(int(sum(c["count"] for c in r["collectives"].values()))),
        "  sent, MB": lambda r: f"{sum(c['sent_bytes'] for c in r['collectives'].values()) / 1e6:.4g}",
        "gathers item table": lambda r: "yes" if r["gathers"]["item_table"] else "no",
        "gathers logits": lambda r: "yes" if r["gathers"]["logits"] else "no",
        "compiled in, s": lambda r: f"{r['compile_seconds']:.0f}",
    }
    names = list(reports)
    lines = [f"{'':24}" + "".join(f"{name:>18}" for name in names)]
    lines += [f"{label:24}" + "".join(f"{cell(reports[name]):>18}" for name in names) for label, cell in rows.items()]
    return "\n".join(lines)
