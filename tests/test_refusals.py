import re

import pytest

from ilo_jax.refusals import SHOWN, listed, refuse

NAMES = [f"n{i}" for i in range(SHOWN + 3)]
FIRST = "n0, n1, n2, n3, n4, n5, n6, n7, n8, n9"


def test_the_first_ten_are_named_and_the_others_counted():
    assert listed([]) == ""
    assert listed(NAMES[:SHOWN]) == FIRST
    assert listed(NAMES) == f"{FIRST}, and 3 more"
    assert listed(NAMES, separator="; ") == FIRST.replace(", ", "; ") + "; and 3 more"


def test_without_problems_nothing_is_refused():
    refuse("a line must be text, got", [])


@pytest.mark.parametrize(
    ("inline", "message"),
    [
        (False, "a line must be text, got\n  line 1: 5\n  line 3: null"),
        (True, "a line must be text, got line 1: 5, line 3: null"),
    ],
)
def test_all_problems_are_in_one_message(inline: bool, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        refuse("a line must be text, got", ["line 1: 5", "line 3: null"], inline=inline)


def test_many_problems_are_counted():
    with pytest.raises(
        ValueError, match=r"^a name must be known, got\n  n0\n  n1(\n.*){8}\n  and 3 more$"
    ):
        refuse("a name must be known, got", [*NAMES])
