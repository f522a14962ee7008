"""What a training does to the languages that it does not learn: measured while it goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import report
from experiments.evaluate import TextScores, corpus_tokens, text_scores
from experiments.launch import say
from experiments.records import Board, Table
from experiments.states import Source, read_corpus
from ilo_jax.activations.pooled import Pooled, compiled_pooled
from ilo_jax.activations.usable import refuse_unusable
from ilo_jax.corpora.packing import Sentences
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.corpora.tokens import token_ids
from ilo_jax.evaluation.interlingua import scored
from ilo_jax.evaluation.likelihood import Likelihood, compiled_likelihood
from ilo_jax.metrics import IloSettings, ReferencedScores, check_settings
from ilo_jax.models.hub import repository
from ilo_jax.models.transformer import Transformer

TEXT = ("language", "bits_per_byte", "loss", "tokens")
INTERLINGUA = ("state", "language", *report.COLUMNS)


class Slice(NamedTuple):
    """Aligned sentences that nobody learns from, and how a model is judged by them."""

    corpus: Parallel
    tokens: Sentences
    """Of all sentences, for their likelihood."""
    likelihood: Likelihood
    pooled: Pooled
    settings: IloSettings
    """Of the scores of every hidden state."""


class Found(NamedTuple):
    """Of one model."""

    texts: TextScores
    scores: ReferencedScores
    """Of every hidden state."""


def read_slice(source: Source, folder: Path, mesh: Mesh, *, k: int, min_languages: int) -> Slice:
    """Return the aligned sentences that a configuration asks for, ready for any weights.

    Raises:
        OSError: if the corpus is absent.
        ValueError: if it or the settings of ILO cannot be used.
    """
    corpus, config = read_corpus(source), repository.folder_config(folder)
    lang, sent = len(corpus.languages), len(corpus.sentences[0])
    settings = IloSettings(k=k, min_languages=min_languages)
    check_settings(settings, num_points=lang * sent, num_languages=lang)
    tokenizer = repository.load_tokenizer(folder)
    ids = token_ids(
        corpus, tokenizer, prefix=source.prefix, limit=config.max_positions, vocab=config.vocab
    )
    size = {"batch_tokens": source.batch_tokens, "dtype": jnp.dtype(source.dtype)}
    return Slice(
        corpus,
        corpus_tokens(corpus, tokenizer, config),
        compiled_likelihood(config, mesh, **size),
        compiled_pooled(config, ids, mesh, **size),
        settings,
    )


def judge(model: Transformer, held_out: Slice, *, name: str) -> Found:
    """Return what a model makes of the sentences.

    Raises:
        ValueError: if a state is not finite, naming layer, language and sentence.
    """
    texts = text_scores(
        held_out.likelihood(model, held_out.tokens), held_out.tokens, held_out.corpus
    )
    states = np.asarray(held_out.pooled(model))
    languages, layers = held_out.corpus.languages, range(len(states))
    refuse_unusable(states, model=name, site="residual", layers=layers, languages=languages)
    return Found(texts, scored(states, held_out.settings))


class Watch:
    """Writes down, every so many steps, what a model in training makes of the languages."""

    def __init__(self, workdir: Path, held_out: Slice, board: Board, *, name: str, until: int):
        """Open bits.csv and ilo.csv in a run folder; rows of steps after `until` are dropped."""
        self.held_out, self.name, self.board = held_out, name, board
        self.bits = Table(workdir / "bits.csv", TEXT, until=until)
        self.ilo = Table(workdir / "ilo.csv", INTERLINGUA, until=until)

    def __call__(self, step: int, model: Transformer) -> None:
        """Judge a model after some steps."""
        languages = self.held_out.corpus.languages
        found = judge(model, self.held_out, name=self.name)
        rows = zip(languages, *(array.tolist() for array in found.texts), strict=True)
        self.bits.add(step, [dict(zip(TEXT, row, strict=True)) for row in rows])
        self.ilo.add(step, interlingua(found.scores, languages))
        bits, best = found.texts.bits_per_byte, np.nanmean(found.scores.ilo, axis=1)
        of_languages = zip(languages, bits.tolist(), strict=True)
        self.board.add(step, {f"bits_per_byte/{language}": bit for language, bit in of_languages})
        self.board.add(step, {f"ilo/{state:03d}": mean for state, mean in enumerate(best.tolist())})
        say(
            f"step {step}: {bits.mean():.3f} bits per byte (mean of {len(languages)} languages); "
            f"mean ILO highest at state {best.argmax()}, {best.max():.3f}"
        )


def interlingua(scores: ReferencedScores, languages: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for every hidden state and language."""
    return [
        {"state": state, "language": languages[lang]}
        | {name: values[state, lang].item() for name, values in scores._asdict().items()}
        for state, lang in np.ndindex(scores.ilo.shape)
    ]
