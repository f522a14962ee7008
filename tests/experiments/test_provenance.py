import dataclasses
import json

import jax

from experiments.provenance import leave_config


@dataclasses.dataclass
class Config:
    model: str = "sample"


def test_what_a_run_was_is_left_in_a_folder_that_need_not_be_there(tmp_path):
    leave_config(tmp_path / "run", Config(), {"corpus": "abc"}, took={"seconds": 1.5})
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert list(record) == ["config", "key", "ran_on"]
    assert (record["config"], record["key"]) == ({"model": "sample"}, {"corpus": "abc"})
    ran_on = record["ran_on"]
    assert (ran_on["seconds"], ran_on["processes"], len(ran_on["devices"])) == (1.5, 1, 8)
    assert set(ran_on["versions"]) >= {"python", "ilo_jax", "jax", "transformers"}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    leave_config(tmp_path / "run", Config(), {})
    assert not list(tmp_path.iterdir())
