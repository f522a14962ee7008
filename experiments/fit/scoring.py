"""The scores of one hidden state, with their references."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from experiments import ilo
from experiments.fit.workload import Asked, Made, Workload, made_whole
from experiments.states import listed_names, read_corpus
from ilo_jax.corpora.languages import PAPER
from ilo_jax.evaluation.interlingua import lowered
from ilo_jax.metrics import check_settings
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import AnyMesh, device_bytes, make_mesh, replicated

SENTENCES = {"dev": 997, "devtest": 1012}
"""Of each language, by the split of FLORES-200 and FLORES+."""
COPIES = 5
"""Arrays as large as all points that a device holds, about."""


def points(config: ilo.Config, asked: Asked) -> tuple[int, int]:
    """How many languages are scored, and how many sentences of each.

    Raises:
        ValueError: If neither the configuration nor anybody else says so.
    """
    if asked.points:
        return asked.points
    if config.corpus == "sample":
        corpus = read_corpus(config)
        return len(corpus.languages), len(corpus.sentences[0])
    names = listed_names(config.languages)
    lang = len(PAPER) if names == ["paper"] else len(names)
    sent = config.sentences or SENTENCES.get(config.split, 0)
    if not lang or not sent:
        raise ValueError(
            "--points must say how many languages and sentences there are, such as 31x997, where "
            f"the configuration does not: languages={config.languages!r}, "
            f"sentences={config.sentences}, split={config.split!r}"
        )
    return lang, sent


def scores(config: ilo.Config, model: Transformer, mesh: AnyMesh, asked: Asked) -> Workload:
    """The scores of a hidden state, which every device has whole.

    Args:
        config: Of the job.
        model: Of which the state is; abstract.
        mesh: The devices that share the search.
        asked: How many points there are.

    Raises:
        ValueError: If nobody says how many, or the settings cannot be used for so many.
    """
    (lang, sent), dim = points(config, asked), model.config.dim
    settings = ilo.settings_of(config)
    check_settings(settings, num_points=lang * sent, num_languages=lang)
    state = jax.ShapeDtypeStruct((lang, sent, dim), jnp.float32, sharding=replicated(mesh))

    def compile() -> Made:
        assert isinstance(mesh, Mesh)
        over_all = make_mesh(devices=[*mesh.devices.flat])
        return made_whole(lowered(state, settings, mesh=over_all), name="scores")

    return Workload(
        f"scores of a hidden state of {lang} x {sent} sentences, {dim} wide",
        {"state": state},
        beside=COPIES * device_bytes(state),
        operations=2 * (lang * sent) ** 2 * dim * (1 + settings.draws) / mesh.size,
        dtype="bfloat16" if settings.precision == "fast" else "float32",
        results=1,
        compile=compile,
    )
