import pytest

from ilo_jax.hlo import Array, read_program

LOOP = """HloModule jit_f, is_scheduled=true, num_partitions=8

%body (carried: (s32[], f32[4])) -> (s32[], f32[4]) {
  %carried = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}) parameter(0)
  %round = s32[]{:T(128)} get-tuple-element(%carried), index=0
  %again = s32[]{:T(128)} copy(%round)
  %step = s32[]{:T(128)} constant(STEP)
  %next = s32[]{:T(128)} add(%again, %step), metadata={op_name="jit(f)/add(x)"}
  %values = f32[4]{0:T(128)S(1)} get-tuple-element(%carried), index=1
  %sine = f32[4]{0:T(128)S(1)} sine(%values), backend_config={"flag_configs":[]}
  ROOT %both = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}) tuple(%next, %sine)
}

%condition (carried.1: (s32[], f32[4])) -> pred[] {
  %carried.1 = (s32[]{:T(128)}, f32[4]{0:T(128)S(1)}) parameter(0)
  %round.1 = s32[]{:T(128)} get-tuple-element(%carried.1), index=0
  %stop = s32[]{:T(128)} constant(7)
  ROOT %on = pred[]{:T(512)} compare(%round.1, %stop), direction=DIRECTION
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0:T(128)} parameter(0)
  %zero = s32[]{:T(128)} constant(START)
  %start = s32[]{:T(128)} copy(%zero)
  %first = (s32[]{:T(128)}, f32[4]{0:T(128)}) tuple(%start, %x)
  %loop = (s32[]{:T(128)}, f32[4]{0:T(128)}) while(%first), condition=%condition, body=%bodySAID
  ROOT %out = f32[4]{0:T(128)} get-tuple-element(%loop), index=1
}
"""


def rounds(*, start="0", step="1", direction="LT", said="", text=LOOP) -> int | None:
    """How often the sine within the loop is taken."""
    for name, value in {"START": start, "STEP": step, "DIRECTION": direction, "SAID": said}.items():
        text = text.replace(name, value)
    executed = read_program(text).executed()
    return next(times for _, line, times in executed if line.opcode == "sine")


@pytest.mark.parametrize(
    ("start", "step", "expected"),
    [("0", "1", 7), ("2", "1", 5), ("0", "2", 4), ("1", "3", 2), ("-1", "1", 8), ("7", "1", 0)],
)
def test_rounds_are_counted_by_counter_and_limit(start, step, expected):
    assert rounds(start=start, step=step) == expected


def test_rounds_that_xla_says_are_believed():
    said = ', backend_config={"known_trip_count":{"n":"5"},"dynamic_variables":[]}'
    assert rounds(said=said) == 5
    assert rounds(said=said, direction="NE", start="foo") == 5


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "GT"},
        {"step": "0"},
        {"start": "{...}"},
        {"text": LOOP.replace("tuple(%next,", "tuple(%round,")},
        {"text": LOOP.replace("add(%again, %step)", "add(%step, %step)")},
        {"text": LOOP.replace("constant(7)", "bitcast-convert(%carried.1)")},
        {"text": LOOP.replace("compare(%round.1,", "compare(%carried.1,")},
        {"text": LOOP.replace("constant(START)", "parameter(1)")},
        {"text": LOOP.replace("tuple(%start, %x)", "custom-call(%start, %x)")},
    ],
    ids=lambda change: str(change)[:60],
)
def test_rounds_that_the_text_does_not_say_are_not_guessed(change):
    assert rounds(**change) is None


def test_the_condition_of_a_loop_runs_once_more():
    text = LOOP.replace("START", "0").replace("STEP", "1").replace("DIRECTION", "LT")
    executed = list(read_program(text.replace("SAID", "")).executed())
    assert [times for _, line, times in executed if line.opcode == "compare"] == [8]
    assert [times for _, line, times in executed if line.name == "out"] == [1]


def test_what_is_called_runs_with_its_caller_and_what_reduces_does_not_count():
    text = """HloModule jit_f

%add (a: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  ROOT %b = f32[] add(%a, %a)
}

%fused (p: f32[4]) -> f32[] {
  %p = f32[4]{0} parameter(0)
  ROOT %r = f32[] reduce(%p), dimensions={0}, to_apply=%add
}

%called (q: f32[4]) -> f32[] {
  %q = f32[4]{0} parameter(0)
  ROOT %f = f32[] fusion(%q), kind=kLoop, calls=%fused
}

ENTRY %main (x: f32[4]) -> f32[] {
  %x = f32[4]{0} parameter(0)
  %once = f32[] call(%x), to_apply=%called
  ROOT %twice = f32[] call(%x), to_apply=%called
}
"""
    executed = [(line.name, times) for _, line, times in read_program(text).executed()]
    body = [("q", 1), ("f", 1), ("p", 1), ("r", 1)]
    assert executed == [("x", 1), ("once", 1), *body, ("twice", 1), *body]


@pytest.mark.parametrize(
    ("result", "arrays", "size"),
    [
        ("f32[8,256]{1,0:T(8,128)}", [Array("f32", (8, 256))], 8192),
        ("bf16[3]{0}", [Array("bf16", (3,))], 6),
        ("pred[5]{0}", [Array("pred", (5,))], 5),
        ("u4[6]{0}", [Array("u4", (6,))], 3),
        ("f8e4m3fn[2,2]{1,0}", [Array("f8e4m3fn", (2, 2))], 4),
        ("c64[]", [Array("c64", ())], 8),
        ("(s32[], /*index=1*/f32[2,3]{1,0})", [Array("s32", ()), Array("f32", (2, 3))], 28),
        ("f32[0,7]{1,0}", [Array("f32", (0, 7))], 0),
    ],
)
def test_arrays_of_a_result(result, arrays, size):
    text = f"ENTRY %main () -> x {{\n  ROOT %x = {result} custom-call()\n}}\n"
    [(_, line, _)] = read_program(text).executed()
    assert line.arrays == arrays
    assert sum(array.bytes for array in line.arrays) == size


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match=r"^the text of a compiled program has an ENTRY; got 'fo"):
        read_program("foo")
