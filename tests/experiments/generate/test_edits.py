import dataclasses
import json

import pytest

from experiments.generate.edits import read_edits
from ilo_jax.generation.edits import Edit

WHOLE = {"site": "neurons", "layer": 1, "kind": "set", "units": [3, 0], "values": [1, 2.5]}
WHOLE |= {"positions": "last", "strength": 2}


def test_edits_of_a_file(tmp_path):
    file = tmp_path / "edits.json"
    file.write_text(json.dumps([WHOLE, {"site": "heads", "layer": 0, "kind": "zero"}]))
    one, other = (dataclasses.asdict(edit) for edit in read_edits(str(file)))
    assert one.pop("values").tolist() == [1, 2.5]
    assert one == {name: value for name, value in WHOLE.items() if name != "values"}
    assert other == dataclasses.asdict(Edit(site="heads", layer=0, kind="zero"))
    assert read_edits("") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "edits.json is not JSON: "),
        ("{}", "edits.json must hold a JSON list of edits, got dict"),
        ('["a"]', "an edit must be an object with site, layer, kind, got\n  1: is str"),
        ('[{"layer": 0}]', "1: has no site, kind$"),
        (json.dumps([WHOLE, WHOLE | {"unit": 1}]), "2: has unit, where kind, layer, positions, "),
        (json.dumps([WHOLE | {"layer": True, "site": 1}]), "1: has .* of another kind as site, l"),
        (json.dumps([WHOLE | {"units": [0.5]}]), "1: has values of another kind as units$"),
        (json.dumps([WHOLE | {"values": [float("nan")]}]), "another kind as values$"),
        (json.dumps([WHOLE | {"strength": "1"}]), "another kind as strength$"),
    ],
)
def test_what_is_no_edit_is_refused(tmp_path, text, said):
    (tmp_path / "edits.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_edits(str(tmp_path / "edits.json"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no edits at .*: there is no such file$"):
        read_edits(str(tmp_path / "edits.json"))
