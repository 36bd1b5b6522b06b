"""Operations, traffic and transfers are counted by the trips of loops, whatever the compiler's own count says."""

import jax
import jax.numpy as jnp
import pytest

from tests.ahead_of_time.test_hlo import LOOP
from tokenrec_jax.ahead_of_time.costs import count
from tokenrec_jax.ahead_of_time.hlo import parse


def compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile()


def test_a_product():
    program = compiled(lambda x, y: jnp.tanh(x @ y), (16, 32), (32, 8))
    assert count(parse(program.as_text())).flops == 2 * 16 * 32 * 8


def test_a_batched_product():
    program = compiled(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), (3, 16, 32), (3, 32, 8))
    assert count(parse(program.as_text())).flops == 2 * 3 * 16 * 32 * 8


def test_products_in_loops_count_once_a_trip():
    def nested(x, weights):
        def layer(hidden, weight):
            return jax.lax.fori_loop(0, 3, lambda _, h: jnp.tanh(h @ weight), hidden), None

        return jax.lax.scan(layer, x, weights)[0]

    program = compiled(nested, (16, 32), (7, 32, 32))
    costs = count(parse(program.as_text()))
    assert costs.flops == 7 * 3 * 2 * 16 * 32 * 32
    assert costs.unknown_loops == 0
    # What the count is for: the compiler's own knows the body once.
    assert program.cost_analysis()["flops"] < costs.flops / 2


def test_a_loop_of_unknown_length_is_said_and_counts_once():
    program = compiled(lambda x, y: jax.lax.while_loop(lambda h: h.sum() < 9, lambda h: h @ y, x), (4, 4), (4, 4))
    costs = count(parse(program.as_text()))
    assert costs.unknown_loops == 1
    assert costs.flops == 2 * 4 * 4 * 4


def test_of_branches_the_longest_counts():
    def either(x, y):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ y, lambda: x @ y @ y)

    program = compiled(either, (16, 16), (16, 16))
    assert count(parse(program.as_text())).flops == 2 * 2 * 16**3


# How the TPU compiler writes 8 x 6 products of [5, 3] and [3, 7]: batches are dimensions of a convolution whose
# dilations let each output meet one element of the kernel.
BATCHED = """\
ENTRY %main (x: bf16[8,6,5,3], y: bf16[8,6,3,7]) -> bf16[8,6,5,7] {
  %x = bf16[8,6,5,3]{3,2,1,0} parameter(0)
  %y = bf16[8,6,3,7]{3,2,1,0} parameter(1)
  ROOT %c = bf16[8,6,5,7]{3,2,1,0} convolution(%x, %y), WINDOW, dim_labels=01bf_01io->01bf
}
""".replace("WINDOW", "window={size=8x6 stride=7x5 lhs_dilate=8x6}")


def test_batched_products_as_convolutions():
    assert count(parse(BATCHED)).flops == 2 * 8 * 6 * 5 * 3 * 7


def test_a_contraction_over_a_window():
    text = BATCHED.replace("bf16[8,6,5,7]{3,2,1,0} conv", "bf16[1,6,5,7]{3,2,1,0} conv").replace(
        "window={size=8x6 stride=7x5 lhs_dilate=8x6}", "window={size=8x6 stride=1x5 lhs_dilate=1x6}"
    )
    assert count(parse(text)).flops == 2 * 8 * 6 * 5 * 3 * 7


def test_full_precision_takes_passes():
    costs = count(parse(BATCHED.replace("01io->01bf", "01io->01bf, operand_precision={highest,highest}")))
    assert costs.multiplier_flops == 6 * costs.flops


def test_transfers_in_loops_count_once_a_trip():
    text = LOOP.replace(
        "  %next =",
        "  %sum = f32[8,128]{1,0:T(8,128)S(1)} all-reduce(%value), channel_id=1, replica_groups={{0,1,2,3}}, "
        "to_apply=%add\n  %next =",
    )
    (found,) = count(parse(text)).collectives
    assert (found.kind, found.times, found.num_bytes) == ("all-reduce", 7, 4096)
    assert found.wire_bytes(8) == pytest.approx(2 * 4096 * 3 / 4)


ASYNC = """\
%start (p: f32[2,128]) -> (f32[2,128], f32[8,128]) {
  %p = f32[2,128]{1,0} parameter(0)
  %all-gather.1 = f32[8,128]{1,0} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %s = (f32[2,128]{1,0}, f32[8,128]{1,0}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion (p.1: f32[2,128], q.1: f32[8,128]) -> (f32[2,128], f32[8,128]) {
  %p.1 = f32[2,128]{1,0} parameter(0)
  %q.1 = f32[8,128]{1,0} parameter(1)
  %all-gather.2 = f32[8,128]{1,0} all-gather(%p.1), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %t = (f32[2,128]{1,0}, f32[8,128]{1,0}) tuple(%p.1, %all-gather.2)
}

%done (p.2: f32[2,128], q.2: f32[8,128]) -> f32[8,128] {
  %p.2 = f32[2,128]{1,0} parameter(0)
  %q.2 = f32[8,128]{1,0} parameter(1)
  %all-gather.3 = f32[8,128]{1,0} all-gather(%p.2), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %d = f32[8,128]{1,0} custom-call(%p.2, %q.2, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: f32[2,128]) -> f32[8,128] {
  %x = f32[2,128]{1,0} parameter(0)
  %f = (f32[2,128]{1,0}, f32[8,128]{1,0}) fusion(%x), kind=kCustom, calls=%start
  %a = f32[2,128]{1,0} get-tuple-element(%f), index=0
  %b = f32[8,128]{1,0} get-tuple-element(%f), index=1
  %g = (f32[2,128]{1,0}, f32[8,128]{1,0}) fusion(%a, %b), kind=kCustom, ALIASING, calls=%async_collective_fusion
  %c = f32[2,128]{1,0} get-tuple-element(%g), index=0
  %e = f32[8,128]{1,0} get-tuple-element(%g), index=1
  ROOT %h = f32[8,128]{1,0} fusion(%c, %e), kind=kCustom, calls=%done
}
""".replace("ALIASING", "output_to_operand_aliasing={{0}: (0, {}), {1}: (1, {})}")


def test_a_transfer_beside_arithmetic_counts_once():
    costs = count(parse(ASYNC))
    assert [item.times for item in costs.collectives] == [1]
    # One read of the part and one write of the whole, and the part that is passed along at the start.
    assert costs.hbm_bytes == 1024 + 4096 + 1024


TRAFFIC = """\
%slice (p: f32[64,128], i: s32[]) -> f32[1,128] {
  %p = f32[64,128]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %s = f32[1,128]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,128}
}

%update (p.1: f32[64,128], u: f32[1,128], i.1: s32[]) -> f32[64,128] {
  %p.1 = f32[64,128]{1,0} parameter(0)
  %u = f32[1,128]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %d = f32[64,128]{1,0} dynamic-update-slice(%p.1, %u, %i.1, %zero.1)
}

ENTRY %main (x: f32[64,128], i.2: s32[]) -> f32[64,128] {
  %x = f32[64,128]{1,0} parameter(0)
  %i.2 = s32[]{:S(6)} parameter(1)
  %row = f32[1,128]{1,0} fusion(%x, %i.2), kind=kLoop, calls=%slice
  %near = f32[1,128]{1,0:S(1)} negate(%row)
  ROOT %y = f32[64,128]{1,0} fusion(%x, %near, %i.2), kind=kLoop, calls=%update
}
"""


def test_traffic_is_what_moves_between_main_memory_and_chip():
    # The row is read and written, then read again; its negative stays on the chip; the update writes one row.
    assert count(parse(TRAFFIC)).hbm_bytes == 512 + 512 + 512 + 512


def test_largest_temporaries_come_first():
    costs = count(parse(TRAFFIC))
    assert [str(item.shape) for item in costs.temporaries] == ["f32[64,128]", "f32[1,128]"]


# A product with one of many blocks, which a fusion within the fusion cuts out.
BLOCK_OF_TABLE = """\
%cut (table: f32[98,8,128], at: s32[]) -> f32[8,128] {
  %table = f32[98,8,128]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,8,128]{2,1,0} dynamic-slice(%table, %at, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %block = f32[8,128]{1,0} bitcast(%slice)
}

%product (rows: f32[8,8], whole: f32[98,8,128], which: s32[]) -> f32[8,128] {
  %rows = f32[8,8]{1,0} parameter(0)
  %whole = f32[98,8,128]{2,1,0} parameter(1)
  %which = s32[] parameter(2)
  %block = f32[8,128]{1,0} fusion(%whole, %which), kind=kLoop, calls=%cut
  ROOT %dot = f32[8,128]{1,0} dot(%rows, %block), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: f32[8,8], y: f32[98,8,128], i: s32[]) -> f32[8,128] {
  %x = f32[8,8]{1,0} parameter(0)
  %y = f32[98,8,128]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %out = f32[8,128]{1,0} fusion(%x, %y, %i), kind=kOutput, calls=%product
}
"""


def test_of_a_table_only_the_block_that_is_used_is_read():
    assert count(parse(BLOCK_OF_TABLE)).hbm_bytes < 2 * 8 * 128 * 4 + 8 * 8 * 4 + 100
