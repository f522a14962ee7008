"""What is read off a compiled search tells bins and a count from staged selection."""

import pytest

from experiments.bench.emitted import gathered_singly, searched, selections, sorts
from ilo_jax import emitted
from ilo_jax.hlo import read_program

TEXT = """HloModule jit_f, num_partitions=1

%fused (p: f32[64,96], i: s32[40]) -> f32[40] {
  %p = f32[64,96]{1,0} parameter(0)
  %i = s32[40]{0} parameter(1)
  ROOT %g = f32[40]{0} gather(%p, %i), offset_dims={}, slice_sizes={1,1}
}

%body (p: f32[64,96]) -> f32[64,96] {
  %p = f32[64,96]{1,0} parameter(0)
  %r = (f32[64,8]{1,0}, s32[64,8]{1,0}) custom-call(%p), custom_call_target="PartialReduce"
  %c = f32[64,96]{1,0} custom-call(%p), custom_call_target="ConcatBitcast"
  %s = (f32[64,8]{1,0}, s32[64,8]{1,0}) sort(%r), dimensions={1}, to_apply=%less
  ROOT %q = f32[64,96]{1,0} copy(%c)
}

ENTRY %main (x: f32[64,96], i: s32[40], j: s32[7]) -> f32[64,96] {
  %x = f32[64,96]{1,0} parameter(0)
  %i = s32[40]{0} parameter(1)
  %j = s32[7]{0} parameter(2)
  %rows = f32[7,96]{1,0} gather(%x, %j), offset_dims={1}, slice_sizes={1,96}
  %of = s32[7]{0} gather(%i, %j), offset_dims={}, slice_sizes={1}
  %few = f32[40]{0} fusion(%x, %i), kind=kCustom, calls=%fused
  ROOT %w = f32[64,96]{1,0} while(%x), condition=%more, body=%body
}

%more (p: f32[64,96]) -> pred[] {
  %p = f32[64,96]{1,0} parameter(0)
  ROOT %t = pred[] constant(true)
}
"""


def test_gathers_of_rows_are_not_of_single_numbers():
    assert gathered_singly(read_program(TEXT)) == 7 + 40


def test_what_selects_and_what_is_sorted():
    program = read_program(TEXT)
    assert selections(program) == {"PartialReduce"}
    assert list(sorts(program)) == [(64, 8)]


@pytest.mark.slow
def test_a_tile_asks_for_staged_selection(tpu):
    """Which gathers all scores of one tile more than the 7 candidates, and as many biases."""
    del tpu  # Which skips where there is no compiler.
    given = {"on": "v5e:2x2", "devices": 1, "shape": (1024, 8), "k": 1, "precision": "exact"}
    staged = emitted.program(searched(**given, tile=4))
    assert gathered_singly(staged) >= 2 * 1024 * 8 * 4
    assert selections(staged) <= {"TopK"}
