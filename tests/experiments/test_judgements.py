"""What models are judged by held-out sentences, measured once and kept."""

from pathlib import Path

import numpy as np
import pytest

from experiments import judgements
from experiments.finetune import Config
from experiments.judgements import judged, keep, kept
from experiments.watch import read_slice
from ilo_jax.evaluation import held_out
from ilo_jax.evaluation.held_out import Judgement, TextScores
from ilo_jax.metrics import ReferencedScores
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.recipes import Recipe
from ilo_jax.sharding import make_mesh


def found(seed: int) -> Judgement:
    rng = np.random.default_rng(seed)
    bits, loss = rng.uniform(0.5, 3, (2, 4))
    texts = TextScores(bits, loss, np.arange(100, 104))
    scores = ReferencedScores(*rng.uniform(0, 1, (5, 3, 4)), *rng.integers(0, 9, (3, 3, 4)))
    return Judgement(texts, scores, rng.uniform(0, 1, (3, 4, 4)))


def same(one: Judgement, other: Judgement) -> bool:
    every = [[*each.texts, *each.scores, each.retrieved] for each in (one, other)]
    pairs = zip(*every, strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def test_what_is_kept_comes_back(tmp_path: Path):
    one = found(0)
    one.scores.ilo[1, 2] = np.nan
    keep(tmp_path / "judged" / "base.npz", one)
    assert same(kept(tmp_path / "judged" / "base.npz"), one)
    assert not same(kept(tmp_path / "judged" / "base.npz"), found(1))


def test_no_pickle_is_read(tmp_path: Path):
    file, one = tmp_path / "base.npz", found(0)
    keep(file, one)
    with np.load(file, allow_pickle=False) as arrays:
        inside = dict(arrays)
    np.savez(file, **inside | {"scores_ilo": np.array([{}], object)}, allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        kept(file)


def test_a_disk_that_refuses_leaves_nothing_half_written(tmp_path: Path, monkeypatch):
    file = tmp_path / "base.npz"
    keep(file, found(0))

    def refuse(stream, **arrays) -> None:
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", refuse)
    for other in (file, tmp_path / "new.npz"):
        with pytest.raises(OSError, match=rf"^cannot write .*{other.name}: disk full"):
            keep(other, found(1))
    assert list(tmp_path.iterdir()) == [file]
    assert same(kept(file), found(0))


def test_what_older_code_judged_is_judged_again(decoder, text, tmp_path, monkeypatch):
    """And nothing else is: the recipe is in the name of what is kept."""
    config = Config(model=str(decoder), corpus=str(text))
    folder, made = open_folder(decoder), []
    sentences = read_slice(config, folder, make_mesh(), k=5, min_languages=3)
    monkeypatch.setattr(judgements.loading, "load", lambda *_, **__: None)
    monkeypatch.setattr(judgements, "judge", lambda *_, name: made.append(name) or found(0))

    def again() -> Judgement:
        return judged(folder, sentences, config, name="base-0", within=tmp_path)

    assert same(again(), again())
    assert len(made) == 1
    for name in ("SCORES", "FORWARD"):
        monkeypatch.setattr(held_out, name, Recipe(name.lower(), -1))
        again()
    assert made == ["base-0"] * 3
