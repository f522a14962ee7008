"""States are computed where they are not stored, once, also where two runs ask for them."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from experiments import states
from experiments.launch import Run
from experiments.settings import Aligned, Extraction
from experiments.states import open_model, read_corpus, states_key, stored_states
from ilo_jax.activations.taps import read
from ilo_jax.corpora.languages import PAPER
from ilo_jax.models.hub.folder import open_folder

TAPS = "residual:mean"


@pytest.fixture
def config(tiny, text) -> Extraction:
    return Extraction(model=str(tiny), corpus=str(text), languages="eng_Latn,aaa_Latn")


def attributes(url: str) -> dict:
    """What zarr.json holds, which must be JSON as the standard has it."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    text = (Path(url) / "zarr.json").read_text()
    return json.loads(text, parse_constant=refuse)["attributes"]


def test_a_corpus_is_read_as_asked_for(text):
    corpus = read_corpus(Aligned(corpus=str(text), languages=" eng_Latn , aaa_Latn", sentences=2))
    assert corpus.languages == ("eng_Latn", "aaa_Latn")
    assert [len(sentences) for sentences in corpus.sentences] == [2, 2]
    paper = read_corpus(Aligned(languages="paper"))
    assert list(paper.languages) == [language.code for language in PAPER]


def test_what_lacks_a_sentence_is_left_out_where_that_is_asked_for_and_said(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("one\n<range>\nthree\nfour\n")
    (tmp_path / "b.txt").write_text("eins\nzwei\n\nvier\n")
    with pytest.raises(ValueError, match=r"a\.txt line 2: <range>\n.*b\.txt line 3: empty$"):
        read_corpus(Aligned(corpus=str(tmp_path)))
    corpus = read_corpus(Aligned(corpus=str(tmp_path), drop_incomplete=True))
    assert corpus.sentences == (("one", "four"), ("eins", "vier"))
    assert capsys.readouterr().out == f"left out 2 lines of {tmp_path} that lack a sentence\n"


def test_a_model_is_opened_without_the_keys_that_are_ignored(config, tiny, tmp_path):
    """Which are in the key, and so is nothing of them where none are."""
    folder = Path(shutil.copytree(tiny, tmp_path / "model"))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"moon": 1, "tide": 2}))
    ignored = open_model(Extraction(model=str(folder), ignore_keys="tide, moon"))
    assert ignored.ignored == ("tide", "moon")
    corpus, taps = read_corpus(config), read(TAPS, ignored.config)
    ours = states_key(config, corpus, ignored, taps, "some")["model"]
    assert ours["ignore_keys"] == "moon,tide"
    plain = states_key(config, corpus, open_model(config), taps, "some")["model"]
    assert ours.keys() - plain.keys() == {"ignore_keys"}


def test_the_key_holds_what_determines_a_state_and_nothing_else(config, tiny):
    corpus, folder = read_corpus(config), open_folder(tiny)
    usual = read(TAPS, folder.config)

    def key(taps=usual, tokens="some", **changed):
        return states_key(Extraction(**vars(config) | changed), corpus, folder, taps, tokens)

    half = "bfloat16"
    for changed in ({"dtype": half}, {"param_dtype": half}, {"stored_dtype": half}):
        assert key(**changed) != key(), changed
    elsewhere = {"model_parallel": 2, "fsdp": True, "states": "x"}
    for tokens in (0, 512, 4096):  # 0: as the devices choose
        assert key(**elsewhere, batch_tokens=tokens) == key()
    assert key(taps=read("neurons:max", folder.config)) != key()
    assert key(tokens="others") != key()


def test_a_run_that_waited_for_another_uses_what_that_one_stored(
    config, tmp_path, monkeypatch, capsys
):
    """Between the look at what is missing and the lock, another run writes all of it."""
    corpus, alone, computed = read_corpus(config), states.alone, []

    @contextmanager
    def waits(url):
        monkeypatch.setattr(states, "alone", alone)
        computed.append(
            stored_states(config, open_folder(config.model), corpus, Run(tmp_path), taps=TAPS)
        )
        with alone(url):
            yield

    monkeypatch.setattr(states, "alone", waits)
    stored = stored_states(config, open_folder(config.model), corpus, Run(tmp_path), taps=TAPS)
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert "they are in" in first
    assert second == f"using the states stored in {stored.store.url}"
    assert "nan" not in first + second
    (session,) = attributes(stored.store.url)["sessions"]
    assert session["batch_tokens"] == 512  # as CPUs choose
    assert 0 <= session["padding"] < 1
    assert session["tokens"] > 0
    for layer in range(3):
        ours = stored.store.read("residual_mean", layer)
        np.testing.assert_array_equal(ours, computed[0].store.read("residual_mean", layer))


def test_what_was_damaged_and_mended_meanwhile_is_not_computed_again(
    config, tmp_path, monkeypatch, capsys
):
    corpus = read_corpus(config)
    stored = stored_states(config, open_folder(config.model), corpus, Run(tmp_path), taps=TAPS)
    chunk = next(p for p in Path(stored.store.url).glob("residual_mean/c/1/1/**/*") if p.is_file())
    whole, alone = chunk.read_bytes(), states.alone
    chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])

    @contextmanager
    def mended(url):
        chunk.write_bytes(whole)
        with alone(url):
            yield

    capsys.readouterr()
    monkeypatch.setattr(states, "alone", mended)
    stored_states(config, open_folder(config.model), corpus, Run(tmp_path), taps=TAPS)
    assert capsys.readouterr().out == f"using the states stored in {stored.store.url}\n"
    assert len(attributes(stored.store.url)["sessions"]) == 1
