import dataclasses
import json

import jax

from experiments.provenance import leave_config
from experiments.settings import Batched
from ilo_jax.corpora.parallel import Parallel


@dataclasses.dataclass
class Config:
    model: str = "sample"


def test_what_a_run_was_is_left_in_a_folder_that_need_not_be_there(tmp_path):
    leave_config(tmp_path / "run", Config(), {"corpus": "abc"}, took={"seconds": 1.5})
    record = json.loads((tmp_path / "run/config.json").read_text())
    assert list(record) == ["config", "key", "corpus", "ran_on"]
    assert record["corpus"] is None
    assert (record["config"], record["key"]) == ({"model": "sample"}, {"corpus": "abc"})
    ran_on = record["ran_on"]
    assert (ran_on["seconds"], ran_on["processes"], len(ran_on["devices"])) == (1.5, 1, 8)
    assert set(ran_on["versions"]) >= {"python", "ilo_jax", "jax", "transformers"}


def test_what_was_read_of_a_corpus_is_written_down(tmp_path):
    corpus = Parallel(("a", "b"), (("x", "y"), ("z", "w")), "here", dropped=3)
    leave_config(tmp_path, Config(), {}, corpus=corpus)
    record = json.loads((tmp_path / "config.json").read_text())
    assert record["corpus"] == {"languages": ["a", "b"], "sentences": 2, "left_out": 3}


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    leave_config(tmp_path / "run", Config(), {})
    assert not list(tmp_path.iterdir())


def test_what_was_left_to_the_devices_is_written_down_as_they_have_it(tmp_path):
    leave_config(tmp_path, Batched(), {})
    assert json.loads((tmp_path / "config.json").read_text())["config"] == {"batch_tokens": 512}
