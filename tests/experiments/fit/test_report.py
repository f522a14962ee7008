import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from experiments.fit import report
from experiments.fit.workload import Made, Workload
from ilo_jax.chips import CHIPS, GIB
from ilo_jax.emitted import Memory
from ilo_jax.sharding import make_mesh

CHIP = CHIPS["v5e"]


def unused() -> Made:
    raise AssertionError


def work(*, gib: int = 2, results: int = 1, dtype: str = "bfloat16") -> Workload:
    whole = NamedSharding(make_mesh(), PartitionSpec())
    weights = jax.ShapeDtypeStruct((gib, 2**28), jnp.float32, sharding=whole)
    rows = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=whole)
    held = {"weights": weights, "rows": rows}
    return Workload("w", held, 0, operations=1.97e12, dtype=dtype, results=results, compile=unused)


def made(parts=(), **memory: int) -> Made:
    sizes = {"arguments": 2 * GIB + 32, "outputs": 0, "aliased": 0, "temporaries": 0, "code": 0}
    return Made(Memory(**sizes | memory), list(parts))


def test_what_is_written_over_arguments_takes_no_memory_of_its_own():
    found = report.taken(work(), made(outputs=GIB, aliased=GIB, temporaries=3 * GIB), CHIP)
    assert found.total == 5 * GIB + 32
    assert found.parts["outputs"] == 0


def test_results_that_wait_are_there_together():
    assert report.taken(work(results=3), made(outputs=GIB), CHIP).parts["outputs"] == 3 * GIB


def test_what_pads_the_arguments_counts():
    found = report.taken(work(), made(arguments=2 * GIB + 132), CHIP)
    assert found.parts["padding"] == 100


@pytest.mark.parametrize(("temporaries", "fits"), [(13.75 * GIB - 32, True), (14 * GIB, False)])
def test_it_fits_what_a_program_may_take(temporaries, fits):
    assert report.taken(work(), made(temporaries=int(temporaries)), CHIP).fits == fits


def test_the_table_of_memory_names_all_but_trifles_and_adds_up():
    found = report.taken(work(results=3), made(outputs=GIB // 2, temporaries=GIB, code=1000), CHIP)
    assert report.memory_table(found, results=3) == (
        "                 on each device    GiB\n"
        "                        weights  2.000\n"
        "temporaries at the worst moment  1.000\n"
        "   outputs of up to 3 at a time  1.500\n"
        "                            sum  4.500\n"
        "29% of the 15.75 GiB that a program may take: it fits"
    )


def test_the_table_of_what_is_there_before_anything_is_computed():
    found = report.held(work(gib=16), CHIP)
    assert report.memory_table(found) == (
        "on each device     GiB\n"
        "       weights  16.000\n"
        "           sum  16.000\n"
        "102% of the 15.75 GiB that a program may take: it does not fit"
    )


@pytest.fixture(scope="module")
def summing() -> jax.stages.Compiled:
    """A program with one all-reduce of 64 float32 among eight devices."""
    mesh = make_mesh()
    split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=split)
    return jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile()


def test_collectives_count_as_often_as_their_part_is_called(summing):
    [one] = report.exchanged(made([("sum", summing, 5)]))
    assert (one.kind, one.times, one.group) == ("all-reduce", 5, 8)


def test_floors_are_by_published_peaks(summing):
    lines = report.floor_table(work(), made([("sum", summing, 2**20)]), CHIP).splitlines()
    sent = 2 * 64 * 4 * 7 / 8 * 2**20
    assert [" ".join(line.split()) for line in lines] == [
        "at least, by published peaks a device peak ms",
        "operations 1.97 TFLOP 197 TFLOP/s (bfloat16) 10.00",
        "weights read once 2.000 GiB 819 GB/s 2.62",
        f"sent by 1048576 all-reduce {sent / GIB:.3f} GiB 200 GB/s {1e3 * sent / 200e9:.2f}",
    ]


def test_products_of_float32_have_a_peak_of_their_own():
    table = report.floor_table(work(dtype="float32"), made(), CHIP)
    assert "32.83 TFLOP/s (float32)  60.00" in table


def test_what_was_compiled_is_counted(summing):
    line = report.parts_line(made([("a", summing, 1), ("b", summing, 32)]), seconds=1.25)
    assert line == "compiled in 1.2 s: 2 distinct parts of 33"
