import pytest

from experiments.pretrain.config import Config, check


def test_the_defaults_can_be_used():
    check(Config())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"held_out": 0.0}, "held_out must be above 0 and below 1, got 0.0"),
        ({"held_out": 1.0}, "held_out must be above 0 and below 1, got 1.0"),
        ({"steps": 4, "warmup": 4}, r"warmup must be in \[0, 3\] for 4 steps, got 4"),
        ({"rows": 8, "rows_at_once": 3}, "rows_at_once must divide rows, 8, or be 0; got 3"),
        ({"positions": 8}, "positions must be at least row_length, 256, got 8"),
        ({"objective": "masked", "mask_share": 0.0}, "mask_share must be above 0 where objective"),
        ({"objective": "masked", "evaluate": 5}, "evaluate must be 0 where objective=masked, .* 5"),
        ({"whole_words": True}, "whole_words must be False unless objective=masked, got True"),
        ({"objective": "both", "optimizer": "sgd"}, "objective must be causal .* optimizer must"),
    ],
)
def test_settings_that_no_run_could_use_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        check(Config(**fields))
