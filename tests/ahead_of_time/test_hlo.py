"""The text of compiled programs is read right: shapes, loops, groups of devices."""

import jax
import jax.numpy as jnp
import pytest

from tokenrec_jax.ahead_of_time.collectives import read_collective
from tokenrec_jax.ahead_of_time.hlo import parse, parse_shapes, trip_count

LOOP = """\
HloModule loop, is_scheduled=true

%body (carried: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %carried = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %count = s32[]{:T(128)} get-tuple-element(%carried), index=0
  %value = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%carried), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%count, %one)
  ROOT %out = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) tuple(%next, %value)
}

%condition (carried.1: (s32[], f32[8,128])) -> pred[] {
  %carried.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)S(1)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%carried.1), index=0
  %bound = s32[]{:T(128)} constant(9)
  ROOT %less = pred[]{:T(512)} compare(%count.1, %bound), direction=LT
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %start = s32[]{:T(128)} constant(2)
  %copy = s32[]{:T(128)} copy(%start)
  %begin = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%copy, /*index=1*/%x)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%begin), condition=%condition, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_shapes_have_memory_space_and_padded_size():
    plain, tiled, on_chip, scalar = parse_shapes(
        "(bf16[3,5]{1,0}, f32[100,64]{1,0:T(8,128)}, bf16[3,130]{1,0:T(8,128)(2,1)S(1)}, pred[]{:T(512)})"
    )
    assert (plain.dims, plain.num_bytes, plain.space) == ((3, 5), 30, 0)
    assert tiled.num_bytes == 104 * 128 * 4
    assert (on_chip.num_bytes, on_chip.space) == (8 * 256 * 2, 1)
    assert scalar.dims == () and scalar.num_bytes == 1
    # The minormost dimension is the first of the layout.
    assert parse_shapes("f32[100,64]{0,1:T(8,128)}")[0].num_bytes == 128 * 64 * 4


def test_a_counter_from_a_constant_to_a_constant_is_a_known_number_of_trips():
    program = parse(LOOP)
    main = program.computations[program.entry]
    assert program.entry == "main" and set(program.computations) == {"body", "condition", "main"}
    assert main["begin"].operands == ("copy", "x")
    assert trip_count(program, main, main["loop"]) == 7


@pytest.mark.parametrize(("step", "trips"), [(2, 4), (3, 3), (7, 1), (9, 1)])
def test_a_counter_may_go_up_in_larger_steps(step, trips):
    program = parse(LOOP.replace("%one = s32[]{:T(128)} constant(1)", f"%one = s32[]{{:T(128)}} constant({step})"))
    main = program.computations[program.entry]
    assert trip_count(program, main, main["loop"]) == trips


def test_the_compilers_own_trip_count_goes_first():
    told = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    program = parse(told)
    main = program.computations[program.entry]
    assert trip_count(program, main, main["loop"]) == 5


def test_a_bound_that_depends_on_data_is_unknown():
    program = parse(LOOP.replace("s32[]{:T(128)} constant(9)", "s32[]{:T(128)} negate(%count.1)"))
    main = program.computations[program.entry]
    assert trip_count(program, main, main["loop"]) is None


def test_programs_of_this_machines_compiler_are_read():
    compiled = jax.jit(lambda x: jax.lax.fori_loop(0, 6, lambda _, y: jnp.sin(y), x)).lower(jnp.ones(3)).compile()
    program = parse(compiled.as_text())
    loops = [
        trip_count(program, computation, line)
        for computation in program.computations.values()
        for line in computation.values()
        if line.opcode == "while"
    ]
    assert loops == [6]


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups={}", ()),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", tuple(range(8))),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([4,2]T(1,0)) {'a'}", (0, 1)),
        ("source_target_pairs={{3,1},{1,3}}", (3, 1)),
    ],
)
def test_groups_of_devices(groups, expected):
    text = f"""\
ENTRY %main (x: f32[4]) -> f32[8] {{
  %x = f32[4]{{0}} parameter(0)
  ROOT %g = f32[8]{{0}} all-gather(%x), channel_id=1, {groups}, dimensions={{0}}
}}
"""
    scope = parse(text).computations["main"]
    found = read_collective(scope["g"], scope, kind="all-gather", times=1)
    assert found.group == expected
    assert found.num_bytes == 32
