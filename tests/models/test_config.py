import dataclasses

import pytest

from ilo_jax.models.config import DecoderConfig, EncoderConfig, Key, Rope, read_keys

DECODER = DecoderConfig(
    vocab=10,
    dim=8,
    layers=1,
    heads=4,
    kv_heads=2,
    head_dim=6,
    mlp_dim=12,
    activation="silu",
    norm_eps=1e-5,
    max_positions=16,
    rope=Rope(theta=500.0, scaling=None),
    attention_bias=False,
    mlp_bias=False,
    head="tied",
)
ENCODER = EncoderConfig(
    vocab=10,
    dim=8,
    layers=1,
    heads=4,
    mlp_dim=12,
    activation="gelu",
    norm_eps=1e-5,
    max_positions=16,
    token_types=2,
)
KEYS = {
    "size": Key(int),
    "eps": Key((int, float), 1e-6),
    "kind": Key(str, "plain", ("plain", "fancy")),
    "tied": Key(bool, False),
}


def read(raw: dict) -> dict:
    return read_keys(raw, KEYS, inert=["comment"], where="a test")


def test_values_are_read_and_inert_keys_left():
    raw = {"size": 3, "eps": 0.5, "kind": "fancy", "tied": True, "comment": [1]}
    assert read(raw) == {"size": 3, "eps": 0.5, "kind": "fancy", "tied": True}


@pytest.mark.parametrize("raw", [{"size": 3}, {"size": 3, "eps": None, "kind": None, "tied": None}])
def test_defaults_stand_for_absent_and_null(raw):
    assert read(raw) == {"size": 3, "eps": 1e-6, "kind": "plain", "tied": False}


def test_an_integer_is_a_number_where_numbers_are_read():
    assert read({"size": 3, "eps": 1})["eps"] == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extra": 1}, "extra: unknown key"),
        ({"size": None}, "size: missing"),
        ({"size": "3"}, "size: must be int, got '3'"),
        ({"size": 3.0}, "size: must be int, got 3.0"),
        ({"size": True}, "size: must be int, got True"),
        ({"eps": True}, "eps: must be int or float, got True"),
        ({"eps": "small"}, "eps: must be int or float, got 'small'"),
        ({"tied": 1}, "tied: must be bool, got 1"),
        ({"kind": 7}, "kind: must be str, got 7"),
        ({"kind": "odd"}, "kind: must be one of ['plain', 'fancy'], got 'odd'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_problem_is_the_whole_message(change, problem):
    with pytest.raises(ValueError, match=r"^cannot read a test:\n") as error:
        read({"size": 3} | change)
    assert str(error.value) == f"cannot read a test:\n  {problem}"


def test_all_problems_come_at_once():
    with pytest.raises(ValueError, match=r"^cannot read a test:\n") as error:
        read({"zeta": 1, "alpha": 2, "eps": "small", "kind": "odd"})
    assert str(error.value).splitlines() == [
        "cannot read a test:",
        "  alpha: unknown key",
        "  zeta: unknown key",
        "  size: missing",
        "  eps: must be int or float, got 'small'",
        "  kind: must be one of ['plain', 'fancy'], got 'odd'",
    ]


def test_heads_must_share_key_value_heads_evenly():
    with pytest.raises(ValueError, match=r"^heads \(4\) must be a multiple of kv_heads, 3$"):
        dataclasses.replace(DECODER, kv_heads=3)


def test_rotary_heads_must_be_even():
    with pytest.raises(ValueError, match=r"^head_dim must be even for rotary positions, got 5$"):
        dataclasses.replace(DECODER, head_dim=5)


def test_encoder_width_must_split_into_heads():
    with pytest.raises(ValueError, match=r"^dim \(8\) must be a multiple of heads, 3$"):
        dataclasses.replace(ENCODER, heads=3)
