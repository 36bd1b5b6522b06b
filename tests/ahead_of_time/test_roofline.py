"""Times are bytes and operations over the published figures."""

import pytest

from tokenrec_jax.ahead_of_time.chips import CHIPS, chip_of
from tokenrec_jax.ahead_of_time.collectives import Collective
from tokenrec_jax.ahead_of_time.costs import Costs
from tokenrec_jax.ahead_of_time.hlo import parse_shapes
from tokenrec_jax.ahead_of_time.report import gathers
from tokenrec_jax.ahead_of_time.roofline import roofline, transfer_seconds
from tokenrec_jax.types import ConfigError

EIGHT = [(x, y, 0) for x in range(2) for y in range(4)]
ROW_OF_16 = [(x, 0, 0) for x in range(16)]


def costs(*collectives, flops=0.0, hbm_bytes=0.0):
    return Costs(flops, flops, hbm_bytes, 0.0, tuple(collectives), (), 0)


def gather(shape, group=()):
    return Collective("all-gather", parse_shapes(shape), 1, group, "")


def test_the_largest_of_three_binds():
    chip = CHIPS["v5e"]
    bounds = roofline(costs(flops=2 * chip.peak_flops, hbm_bytes=chip.hbm_bandwidth), chip, EIGHT)
    assert (bounds.compute, bounds.hbm, bounds.bound_by) == (2.0, 1.0, "compute")
    assert bounds.allowed_mfu(chip.peak_flops, chip) == 0.5


def test_a_transfer_uses_the_links_of_the_dimensions_that_its_group_spans():
    chip, whole = CHIPS["v5e"], gather("f32[1000,1000]")
    # 2 x 4 without rings: one link in each of two dimensions.
    assert transfer_seconds(whole, chip, EIGHT) == pytest.approx(4e6 * 7 / 8 / 100e9)
    # Along one dimension, one link.
    assert transfer_seconds(gather("f32[1000,1000]", (0, 1, 2, 3)), chip, EIGHT) == pytest.approx(4e6 * 3 / 4 / 50e9)
    # A dimension of 16 closes to a ring.
    assert transfer_seconds(whole, chip, ROW_OF_16) == pytest.approx(4e6 * 15 / 16 / 100e9)
    assert transfer_seconds(gather("f32[8]", (3,)), chip, EIGHT) == 0.0


def test_cores_share_a_chip():
    chip = CHIPS["v4"]
    assert chip.core(2).peak_flops == chip.peak_flops / 2 and chip.core(1) == chip


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_figures_are_plausible_and_have_a_source(chip):
    assert chip.source.startswith("https://")
    assert 1e14 < chip.peak_flops < 2e15 and 100 < chip.ridge < 1000
    assert chip.hbm_bandwidth > 4 * chip.link_bandwidth


def test_an_unknown_chip_is_one_line():
    with pytest.raises(ConfigError, match=r"unknown chip 'v9'; allowed: v4, v5e, v5p, v6e"):
        chip_of("v9:2x4")


def test_gathers_of_the_item_axis_are_seen():
    table, logits = gather("f32[1024,64]"), gather("f32[32,1024]")
    small = gather("f32[128,64]")
    assert gathers(costs(small), rows=1024, dim=64) == {"item_table": False, "logits": False}
    assert gathers(costs(small, table), rows=1024, dim=64) == {"item_table": True, "logits": False}
    assert gathers(costs(small, logits), rows=1024, dim=64) == {"item_table": False, "logits": True}
