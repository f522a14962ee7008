"""What is hidden, against its definition; and a masked model that trains as torch's does."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from ilo_jax.corpora.packing import Rows, as_sentences, even_batches, fill, plan
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh
from ilo_jax.training import optimizers
from ilo_jax.training.language import Batch
from ilo_jax.training.masked import (
    Vocabulary,
    compiled_masked,
    masked,
    masked_tokens,
    masking_vocabulary,
    word_openings,
)
from ilo_jax.training.order import place_rows
from ilo_jax.training.step import begin, make_step
from tests.models.variants import VOCAB as TINY
from tests.training.conftest import ADAMW, KEY, PEAK, SCHEDULE, STEPS, WARMUP, copied, farthest

VOCAB, MASK = 64, 3
SPECIAL = np.arange(VOCAB) < 4
KNOWN = Vocabulary(MASK, SPECIAL, np.arange(4, VOCAB, dtype=np.int32))
SHARE = 0.3


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Return rows of several segments, special tokens at their ends."""
    rng = np.random.default_rng(0)
    ids = [[1, *rng.integers(4, VOCAB, n).tolist(), 2] for n in rng.integers(5, 60, 300)]
    special = [[1, *[0] * (len(one) - 2), 1] for one in ids]
    sentences = as_sentences(ids, special)
    return fill(sentences, plan(sentences.lengths, row_length=64), row_length=64)


def hidden(rows: Rows, seed: int = 0, vocabulary: Vocabulary = KNOWN):
    found = masked(rows, vocabulary, jax.random.key(seed), share=SHARE)
    return np.asarray(found.seen), np.asarray(found.chosen)


def test_ordinary_tokens_are_hidden_by_their_shares(rows):
    seen, chosen = hidden(rows)
    able = (rows.segments > 0) & ~rows.special
    assert not (chosen & ~able).any()
    assert np.array_equal(seen[~chosen], rows.tokens[~chosen])
    total, count = able.sum(), chosen.sum()
    assert abs(count / total - SHARE) < 4 * (SHARE * (1 - SHARE) / total) ** 0.5
    as_mask = seen[chosen] == MASK
    same = seen[chosen] == rows.tokens[chosen]
    assert abs(as_mask.mean() - 0.8) < 4 * (0.16 / count) ** 0.5
    # Of the tenth that is replaced, one in 60 becomes what it was.
    assert abs(same.mean() - (0.1 + 0.1 / 60)) < 4 * (0.1 / count) ** 0.5
    others = seen[chosen][~as_mask & ~same]
    assert others.min() >= 4
    assert len(set(others.tolist())) > 50


def test_what_is_hidden_depends_on_the_key_alone(rows):
    one, again, other = hidden(rows, 5), hidden(rows, 5), hidden(rows, 6)
    assert np.array_equal(one[0], again[0])
    assert not np.array_equal(one[1], other[1])


def test_tokens_that_do_not_count_are_never_hidden(rows):
    target = np.random.default_rng(1).random(rows.tokens.shape) < 0.5
    _, chosen = hidden(rows._replace(target=target))
    assert chosen.any()
    assert not (chosen & ~target).any()


def test_a_special_token_within_a_text_is_never_hidden(rows):
    _, chosen = hidden(rows._replace(special=np.zeros_like(rows.special)))
    assert not chosen[SPECIAL[rows.tokens]].any()


def test_words_are_hidden_whole(rows):
    opens = np.arange(VOCAB) % 3 == 0
    _, chosen = hidden(rows, vocabulary=KNOWN._replace(opens=opens))
    within = ~opens[rows.tokens] & ~rows.special & (rows.segments > 0) & (rows.positions > 1)
    row, place = np.nonzero(within)
    assert len(row) > 1000
    assert np.array_equal(chosen[row, place], chosen[row, place - 1])
    assert 0.2 < chosen[row, place].mean() < 0.4
    starts = opens[rows.tokens] & ~rows.special & (rows.segments > 0)
    both = starts[:, 1:] & starts[:, :-1]
    assert (chosen[:, 1:] != chosen[:, :-1])[both].mean() > 0.2


def test_words_begin_where_a_tokenizer_marks_it():
    def openings(model, decoder=None) -> dict[str, bool]:
        words = Tokenizer(model)
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        words.decoder = decoder
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
        found = word_openings(tokenizer)
        return dict(zip(tokenizer.convert_ids_to_tokens([*range(len(found))]), found, strict=True))

    pieces = openings(models.WordPiece({"ab": 0, "##c": 1, ",": 2}, unk_token="ab"))
    assert pieces == {"ab": True, "##c": False, ",": True}
    vocab = {token: i for i, token in enumerate(["Ġab", "c", ",", "Ġ", "ã", "7"])}
    byte = openings(models.BPE(vocab=vocab, merges=[]), decoders.ByteLevel())
    assert byte == {"Ġab": True, "c": False, ",": True, "Ġ": True, "ã": False, "7": False}
    with pytest.raises(ValueError, match=re.escape("whole words need a tokenizer that marks")):
        openings(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))


def test_a_tokenizer_without_a_mask_is_refused():
    words = Tokenizer(models.BPE(vocab={"a": 0, "<s>": 1, "<mask>": 2, "<unk>": 3}, merges=[]))
    plain = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    with pytest.raises(ValueError, match="needs a tokenizer with a mask token, got one without"):
        masking_vocabulary(plain)
    known = {"bos_token": "<s>", "mask_token": "<mask>", "unk_token": "<unk>"}
    found = masking_vocabulary(PreTrainedTokenizerFast(tokenizer_object=words, **known))
    assert found.mask == 2
    assert found.special.tolist() == [False, True, True, False]
    assert found.ordinary.tolist() == [0, 3]
    assert found.opens is None


# A model that trains

COMPARED = 20
"""Steps of torch's training."""
TOLERANCE = 1e-5
"""Of the norm of each weight, and of each loss."""
TINYS = Vocabulary(MASK, np.arange(TINY) < 4, np.arange(4, TINY, dtype=np.int32))


def batch_of(rows: Rows, step: int) -> dict[str, torch.Tensor]:
    """Return the sentences of a step's rows as torch takes them, the same tokens hidden."""
    found = []
    for number in range(len(rows.tokens)):
        key = jax.random.fold_in(jax.random.fold_in(KEY, step), number)
        part = Rows(*(np.asarray(array)[number] for array in rows))
        seen, chosen = (np.asarray(a) for a in masked(part, TINYS, key, share=SHARE))
        for row, segments in enumerate(part.segments):
            for segment in range(1, segments.max() + 1):
                where = row, segments == segment
                wanted = np.where(chosen[where], part.tokens[where], -100)
                ids, labels = (torch.from_numpy(a.astype(np.int64)) for a in (seen[where], wanted))
                found.append((ids, labels, torch.ones_like(ids)))
    names = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        name: pad_sequence(list(tensors), batch_first=True, padding_value=value)
        for (name, value), tensors in zip(names.items(), zip(*found, strict=True), strict=True)
    }


def train_torch(model: Any, batches: list[dict[str, torch.Tensor]]) -> Iterator[float]:
    """Yield the loss of each step."""
    weights = [*model.parameters()]
    groups = [
        {"params": [w for w in weights if w.ndim == 2], "weight_decay": ADAMW["weight_decay"]},
        {"params": [w for w in weights if w.ndim < 2], "weight_decay": 0.0},
    ]
    betas = ADAMW["b1"], ADAMW["b2"]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=betas, eps=ADAMW["eps"])
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
    for batch in batches:
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(weights, ADAMW["clip"])
        optimizer.step()
        schedule.step()
        yield loss.item()


def test_training_is_torchs(start, text, order, tmp_path):
    """Two parts of several sentences a row, against all sentences in one padded batch."""
    begun, mesh = start("encoder"), make_mesh(data=1)
    loss = masked_tokens(begun.config, mesh, TINYS, share=SHARE, dtype="float32")
    optimizer = optimizers.adamw(SCHEDULE, **ADAMW)
    weights = {path: jax.device_put(w, mesh.devices.flat[0]) for path, w in begun.weights.items()}
    state = begin(optimizer, weights, mesh)
    step = make_step(loss, optimizer, like=state, mesh=mesh)
    placed = [place_rows(text, order, number, mesh) for number in range(COMPARED)]
    losses = []
    for rows in placed:
        state, measures = step(state, {}, Batch(rows), KEY)
        losses.append(float(measures.loss))
    theirs = copy.deepcopy(begun.torch)
    expected = [*train_torch(theirs, [batch_of(rows, n) for n, rows in enumerate(placed)])]
    np.testing.assert_allclose(losses, expected, rtol=TOLERANCE)
    assert losses[-1] < losses[0]
    theirs.save_pretrained(tmp_path)
    after = copied(parameters.weights(loading.load(open_folder(tmp_path), mesh=mesh)))
    assert farthest(copied(state.weights), after) <= TOLERANCE
    assert farthest(begun.weights, after) > 100 * TOLERANCE


def test_the_losses_of_sentences_are_those_of_their_hidden_tokens(start, text):
    begun, mesh = start("encoder"), make_mesh()
    model = loading.load(open_folder(begun.folder), mesh=mesh)
    find = compiled_masked(
        begun.config, mesh, TINYS, share=SHARE, batch_tokens=1024, dtype="float32"
    )
    found, again = find(model, text.sentences), find(model, text.sentences)
    assert np.array_equal(found.losses, again.losses)
    expected = 0.0
    batches = even_batches(text.sentences, batch_tokens=1024, places=mesh.shape["data"])
    for number, (_, rows) in enumerate(batches):
        key = jax.random.fold_in(jax.random.key(0), number)
        rows = Rows(*map(jnp.asarray, rows))
        seen, chosen = masked(rows, TINYS, key, share=SHARE)
        scores = model.logits(model.run(rows._replace(tokens=seen)).value)
        logs = np.asarray(jax.nn.log_softmax(scores), np.float64)
        right = np.take_along_axis(logs, np.asarray(rows.tokens)[..., None], axis=-1)[..., 0]
        expected -= right[np.asarray(chosen)].sum()
    assert found.losses.sum() == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(found.losses > 0, found.counts > 0)
    assert found.counts.sum() / len(text.sentences.tokens) == pytest.approx(0.8 * SHARE, abs=0.05)
