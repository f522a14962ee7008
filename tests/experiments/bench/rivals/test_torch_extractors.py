"""Torch extracts what we do, in both ways, and gets what is fastest for it."""

import numpy as np
import pytest
import torch

from experiments.bench.rivals import extractors, torch_extractors
from experiments.bench.rivals.extractors import Search
from experiments.bench.rivals.work import Work


def vectors(search: Search) -> np.ndarray:
    found = search()
    assert found.vectors is not None
    return found.vectors()


def test_torch_takes_the_means_that_we_take(work):
    ours = vectors(extractors.forward(work))
    for theirs in (torch_extractors.paper(work), torch_extractors.best(work)):
        away = np.linalg.norm(vectors(theirs) - ours, axis=-1) / np.linalg.norm(ours, axis=-1)
        assert away.max() < 1e-5


def test_the_best_way_computes_the_least_padding_of_its_batches(work):
    """Batches of four sentences, sorted by length, each as wide as its longest."""
    lengths = np.sort(work.lengths)[::-1].reshape(-1)
    batches = [lengths[i : i + 4] for i in range(0, len(lengths), 4)]
    computed = sum(len(batch) * batch[0] for batch in batches)
    found = torch_extractors.best(work)()
    assert found.padding == pytest.approx(1 - lengths.sum() / computed)
    assert found.batch == "4 sentences"
    assert torch_extractors.paper(work)().padding == 0


def test_padding_is_ignored(work):
    ids = work.ids()[:7]
    batches = torch_extractors.padded(ids, 3)
    assert [tuple(tokens.shape) for tokens, _ in batches] == [
        (len(ids[i : i + 3]), max(map(len, ids[i : i + 3]))) for i in (0, 3, 6)
    ]
    for (tokens, real), start in zip(batches, (0, 3, 6), strict=True):
        for row, one in enumerate(ids[start : start + 3]):
            np.testing.assert_array_equal(tokens[row][real[row]], one)
    other = [(torch.where(real, tokens, 77), real) for tokens, real in batches]
    pairs = zip(*(torch_extractors.pooled(work.theirs, b) for b in (batches, other)), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fastest", torch_extractors.BATCH_SIZES)
def test_torch_gets_the_fastest_size(fastest, monkeypatch, capsys):
    seen = {}

    def alternating(calls, *, rounds):
        for name, call in calls.items():
            model, batches = call.args
            assert model == "model"
            assert {tokens.shape[0] for tokens, _ in batches} == {int(name)}
            seen[name] = sum(int(real.sum()) for _, real in batches)
        seconds = {name: extractors.Seconds(abs(int(name) - fastest), 0) for name in calls}
        return {name: extractors_timed(each) for name, each in seconds.items()}

    def extractors_timed(seconds):
        return torch_extractors.timing.Timed(seconds, None)

    monkeypatch.setattr(torch_extractors.timing, "alternating", alternating)
    ids = [np.full(1000 - i, i) for i in range(640)]
    work = Work("", None, "model", *[None] * 7)  # pyright: ignore
    assert torch_extractors.fastest_size(work, ids) == fastest
    # The longest, those in the middle, and the shortest.
    tried = [*range(64), *range(256, 320), *range(576, 640)]
    assert set(seen.values()) == {sum(1000 - i for i in tried)}
    assert "seconds by sentences" in capsys.readouterr().out
