"""What models make of a corpus, computed where it is not stored yet."""

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32
from tqdm import tqdm

from experiments.hardware import make_mesh, peak_flops, settled
from experiments.launch import Run, say
from experiments.provenance import surroundings
from experiments.settings import Aligned, Extraction, Model, Monolingual
from ilo_jax.activations.extraction import Report, extract
from ilo_jax.activations.gathering import layouts
from ilo_jax.activations.store import Key, Store, open_store
from ilo_jax.activations.taps import Tap, read
from ilo_jax.activations.usable import naming, usable_states
from ilo_jax.corpora import parallel, prepared
from ilo_jax.corpora.documents import Documents, read_documents, sample_documents
from ilo_jax.corpora.languages import PAPER
from ilo_jax.corpora.packing import Sentences
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.corpora.tokens import token_ids
from ilo_jax.files import key_digest
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import Folder, open_folder
from ilo_jax.processes import alone, gathered, largest, quiet, share, together
from ilo_jax.recipes import FORWARD, digest_of, key_of


class Stored(NamedTuple):
    """States that are stored whole, and where they come from."""

    store: Store
    key: Key
    corpus: Parallel
    model: str
    """Its name."""
    taps: tuple[Tap, ...]
    """What was taken from it."""

    @property
    def took(self) -> dict[str, Any]:
        """Where the states are, by the digest of their key, and the sessions that computed them."""
        return {"states": key_digest(self.key), "computed": self.store.sessions()}

    def hidden_states(self, *, doing: str) -> Iterator[Float32[np.ndarray, "lang sent dim"]]:
        """Yield what the only tap took of each layer, in order.

        Args:
            doing: What is done with them, for the progress bar.

        Raises:
            OSError: If something stored is damaged.
            ValueError: If a state is unusable, naming model, layer, language and sentence.
        """
        (tap,) = self.taps
        layers = usable_states(self.store, tap)
        with naming(self.model, self.corpus.languages):
            yield from tqdm(layers, desc=doing, total=len(tap.layers), disable=quiet())


def read_corpus(source: Aligned) -> Parallel:
    """The aligned sentences that the configuration asks for; says how many lines were left out.

    Raises:
        OSError: If the corpus is absent or cannot be read.
        ValueError: If it is none, lacks what is asked for, or is damaged.
    """
    codes = ",".join(language.code for language in PAPER)
    asked = codes if source.languages == "paper" else source.languages
    languages = listed_names(asked)
    path = parallel.SAMPLE if source.corpus == "sample" else Path(source.corpus)
    reader = prepared.read_prepared if prepared.is_prepared(path) else parallel.read
    corpus = reader(
        path,
        languages=languages,
        sentences=source.sentences or None,
        split=source.split,
        drop_incomplete=source.drop_incomplete,
    )
    if source.drop_incomplete:
        say(f"left out {corpus.dropped} lines of {corpus.source} that lack a sentence")
    return corpus


def read_monolingual(source: Monolingual) -> Documents:
    """The documents, by language, that the configuration asks for.

    Raises:
        OSError: If the text is absent or cannot be read.
        ValueError: If it is none, lacks what is asked for, or is damaged.
    """
    languages = listed_names(source.text_languages)
    if source.text == "sample":
        return sample_documents(held_out=source.held_out, languages=languages)
    return read_documents(
        source.text,
        held_out=source.held_out,
        languages=languages,
        unit=source.unit,  # pyright: ignore (one of those, by `settings.check`)
        split=source.text_split,
    )


def open_model(source: Model, *, whole: bool = True) -> Folder:
    """The folder of the model that the configuration asks for.

    Args:
        source: The configuration.
        whole: Whether a model that is fetched is fetched with its weights and tokenizer.
    """
    ignored = listed_names(source.ignore_keys)
    return open_folder(source.model, ignore_keys=ignored, whole=whole)


def listed_names(text: str) -> list[str]:
    """The names of a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def states_key(
    source: Extraction, corpus: Parallel, folder: Folder, taps: Sequence[Tap], tokens: str
) -> Key:
    """All that determines the states, and which language is which.

    Args:
        source: The configuration.
        corpus: Of which the states are.
        folder: Of the model.
        taps: What is taken from it.
        tokens: `tokens_digest` of the corpus.
    """
    return key_of(
        FORWARD,
        model=folder.fingerprint,
        tokens=tokens,
        settings={
            "languages": list(corpus.languages),
            "sentences": len(corpus.sentences[0]),
            "taps": {tap.name: list(tap.layers) for tap in taps},
            "dtype": source.dtype,
            "param_dtype": source.param_dtype or source.dtype,
            "stored_dtype": source.stored_dtype,
        },
    )


def tokens_digest(text: Mapping[int, Sentences], languages: int) -> str:
    """The digest of the token ids of all languages, the same on every process.

    Args:
        text: Of this process's languages, by index; each is some process's.
        languages: How many there are.
    """
    digests = np.zeros((languages, 32), np.uint8)
    for language, sentences in text.items():
        digests[language] = np.frombuffer(bytes.fromhex(digest_of(sentences)), np.uint8)
    return digest_of([gathered(digests).max(axis=0)])


def stored_states(
    source: Extraction, folder: Folder, corpus: Parallel, run: Run, *, taps: str
) -> Stored:
    """The states of a corpus, computed now where they are missing or damaged.

    Raises:
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the corpus or the model cannot be used.
    """
    mesh = make_mesh(source)
    part = share(mesh)
    own = range(part.index, len(corpus.languages), part.count)
    text = together(partial(_text, source, corpus, folder, own), what="reading the text")
    job = _Job(settled(source), folder, mesh, read(taps, folder.config), text)
    tokens = tokens_digest(text, len(corpus.languages))
    key = states_key(source, corpus, folder, job.taps, tokens)
    store = _open(job, corpus, key, run)
    damaged = _damaged(store, own if part.first else ())
    report = _complete(store, corpus, job, run, damaged) if _lacks(store, damaged) else None
    if report is None:
        say(f"using the states stored in {store.url}")
    else:
        say(summary(report) + f"; they are in {store.url}")
    return Stored(store, key, corpus, folder.name, job.taps)


def _damaged(store: Store, languages: Sequence[int]) -> dict[int, str]:
    return together(lambda: store.damaged(languages), what="checking states")


def _lacks(store: Store, damaged: Mapping[int, str]) -> bool:
    """Whether something is missing or, on any process, damaged."""
    return any(largest([len(damaged), len(store.missing())]))


def _complete(
    store: Store, corpus: Parallel, job: "_Job", run: Run, damaged: Mapping[int, str]
) -> Report | None:
    """Compute what is missing or damaged; None if another run did, while this one waited for it."""
    with alone(store.url):
        damaged = _damaged(store, [*damaged])
        if not _lacks(store, damaged):
            return None
        for language, problem in damaged.items():
            print(f"computing {corpus.languages[language]} again: {problem}", flush=True)
        together(lambda: store.forget(damaged), what="marking damaged states")
        report = _fill(store, corpus, job, run)
        if jax.process_index() == 0:
            store.add_session(report._asdict() | surroundings() | dataclasses.asdict(job.source))
    return report


class _Job(NamedTuple):
    """What a process has to do."""

    source: Extraction
    folder: Folder
    mesh: Mesh
    taps: tuple[Tap, ...]
    text: dict[int, Sentences]
    """Token ids of its languages, by index."""


def _text(
    source: Extraction, corpus: Parallel, folder: Folder, own: Sequence[int]
) -> dict[int, Sentences]:
    if not own:
        return {}
    part = dataclasses.replace(
        corpus,
        languages=tuple(corpus.languages[language] for language in own),
        sentences=tuple(corpus.sentences[language] for language in own),
    )
    limits = folder.config.limits
    ids = token_ids(part, folder.tokenizer, prefix=source.prefix, limits=limits)
    return dict(zip(own, ids, strict=True))


def _open(job: _Job, corpus: Parallel, key: Key, run: Run) -> Store:
    (longest,) = largest([max((len(ids.tokens) for ids in job.text.values()), default=0)])
    lang, sent = len(corpus.languages), len(corpus.sentences[0])
    dtype = job.source.stored_dtype
    arrays = layouts(job.taps, lang=lang, sent=sent, longest=longest, dtype=dtype)
    root = job.source.states or run.workdir / "states"
    return together(partial(open_store, root, key, arrays, lang=lang), what=f"opening {root}")


def _fill(store: Store, corpus: Parallel, job: _Job, run: Run) -> Report:
    """Compute the states that the store misses."""
    source, begun = job.source, time.perf_counter()
    dtype = jnp.dtype(source.param_dtype or source.dtype)
    model = loading.load(job.folder, mesh=job.mesh, fsdp=source.fsdp, dtype=dtype)
    say(f"the model was read in {time.perf_counter() - begun:.1f} s")
    with run.traced(), naming(job.folder.name, corpus.languages):
        return extract(
            model,
            job.text,
            store,
            job.mesh,
            taps=job.taps,
            batch_tokens=source.batch_tokens,
            dtype=jnp.dtype(source.dtype),
        )


def summary(report: Report) -> str:
    """What an extraction did, in one line."""
    rate, speed = report.flops / report.seconds, report.tokens / report.seconds
    text = (
        f"{report.tokens} tokens in {report.seconds:.1f} s ({speed:.0f}/s, "
        f"{report.padding:.1%} padding, {rate / 1e12:.3g} TFLOP/s of the model"
    )
    if peak := peak_flops():
        text += f", {rate / peak:.0%} of the devices' bfloat16 peak"
    text += f"), compiled in {report.compile_seconds:.1f} s, {report.host_bytes / 2**30:.1f} GiB"
    if report.device_bytes:
        text += f" of host and {report.device_bytes / 2**30:.1f} GiB of device memory"
    return text
