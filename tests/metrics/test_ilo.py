"""ILO against its definition in float64 loops and against the paper's algorithm in torch."""

import inspect
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ilo_jax.metrics import (
    IloScores,
    IloSettings,
    Neighbors,
    bridge,
    check_settings,
    ilo,
    nearest,
    reach,
    tally,
    touched,
)
from ilo_jax.metrics.ilo import count_languages
from ilo_jax.sharding import along_data, make_mesh


def definition(points, labels, *, num_languages, k, min_languages, distance) -> np.ndarray:
    """Bridge, reach and ILO of every language; usable points only, at least one a language."""
    points = points.astype(np.float64)
    bridging, size = np.zeros(num_languages), np.zeros(num_languages)
    reached = [set() for _ in range(num_languages)]
    for i, (point, own) in enumerate(zip(points, labels, strict=True)):
        others = []
        for j, other in enumerate(points):
            if distance == "cosine":
                far = -(point @ other) / (np.sqrt(point @ point) * np.sqrt(other @ other))
            else:
                far = np.sqrt(np.sum((point - other) ** 2))
            if i != j:
                others.append((far, labels[j]))
        touches = {label for _, label in sorted(others)[:k]} - {own}
        size[own] += 1
        bridging[own] += len(touches) >= min_languages
        reached[own] |= touches
    share = bridging / size
    met = np.array([len(r) for r in reached]) / (num_languages - 1)
    total = share + met
    return np.array([share, met, np.where(total > 0, 2 * share * met / np.maximum(total, 1e-9), 0)])


def paper(states: np.ndarray, *, k: int, min_languages: int) -> np.ndarray:
    """Wilie et al.: similarity matrix, top k + 1, the first hit dropped. Equal sentence counts."""
    lang, sent, dim = states.shape
    points = torch.from_numpy(states).double().reshape(-1, dim)
    unit = torch.nn.functional.normalize(points, dim=1)
    hits = torch.topk(unit @ unit.T, k + 1, dim=1).indices[:, 1:]
    scores = []
    for language in range(lang):
        rows = hits[language * sent : (language + 1) * sent] // sent
        touches = [set(row.tolist()) - {language} for row in rows]
        share = sum(len(t) >= min_languages for t in touches) / sent
        met = len(set.union(*touches)) / (lang - 1)
        scores.append((share, met, 2 * share * met / (share + met) if share + met else 0.0))
    return np.array(scores).T


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def labelled(counts: list[int], seed: int = 0) -> np.ndarray:
    """So many labels of each language, in random order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def check(scores: IloScores, expected: np.ndarray, labels: np.ndarray) -> None:
    """Exactly equal shares, which are quotients of integers, where no point is uncertain."""
    scores = jax.device_get(scores)
    certain = scores.uncertain == 0
    np.testing.assert_array_equal(scores.unusable, 0)
    for found, true in zip(scores[:2], expected.astype(np.float32)[:2], strict=True):
        np.testing.assert_array_equal(found[certain], true[certain])
    np.testing.assert_allclose(scores.ilo[certain], expected[2][certain], rtol=1e-6)
    changed = np.abs(scores.bridge - expected[0]) * np.bincount(labels)
    assert (changed <= scores.uncertain + 1e-4).all()


def duplicates(points: np.ndarray, share: float = 0.3) -> np.ndarray:
    """Points, some of which repeat others, within and across languages."""
    rng = np.random.default_rng(3)
    points = points.copy()
    copies = rng.choice(len(points), size=(2, int(share * len(points))))
    points[copies[0]] = points[copies[1]]
    return points


def meanings(labels: np.ndarray, dim: int) -> np.ndarray:
    """Sentences in translation, languages somewhat apart, all around one far point."""
    meaning, language = normal(30, dim, seed=1), normal(204, dim, seed=2)
    order = np.argsort(np.argsort(labels, kind="stable")) % 30
    noise = normal(len(labels), dim, seed=3)
    return normal(dim, seed=4) * 30 + meaning[order] + 0.4 * language[labels] + 0.5 * noise


UNEVEN = {
    "two languages": labelled([87, 13]),
    "four languages": labelled([30, 1, 60, 9]),
    "twelve languages": labelled([*range(3, 14), 12]),
    "forty languages": labelled([1, 2, 3, 4] * 10),
    "two hundred and four languages": labelled([1, 2, 1] * 68),
}
SETTINGS = [
    ("two languages", 5, 1, "cosine"),
    ("four languages", 5, 3, "euclidean"),
    ("four languages", 12, 2, "cosine"),
    ("twelve languages", 5, 2, "cosine"),
    ("twelve languages", 12, 5, "cosine"),
    ("forty languages", 5, 5, "euclidean"),
    ("forty languages", 1, 1, "euclidean"),
]
OTHERWISE = [
    (languages, k, t, "cosine" if distance == "euclidean" else "euclidean")
    for languages, k, t, distance in SETTINGS
]


MESH = make_mesh(data=8)
WAYS: dict[str, dict[str, Any]] = {
    "fast": {"precision": "fast"},
    "8 devices": {"mesh": MESH},
    "8 devices, fast": {"mesh": MESH, "precision": "fast"},
}


@pytest.mark.parametrize(
    ("languages", "k", "t", "distance"),
    [*SETTINGS, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERWISE)],
)
@pytest.mark.parametrize("kind", ["noise", "meanings", "duplicates"])
def test_against_the_definition(kind, languages, k, t, distance):
    labels = UNEVEN[languages]
    points = meanings(labels, 24) if kind == "meanings" else normal(len(labels), 24)
    points = duplicates(points) if kind == "duplicates" else points
    settings = {
        "num_languages": int(max(labels)) + 1,
        "k": k,
        "min_languages": t,
        "distance": distance,
    }
    scores = ilo(jnp.asarray(points), languages=jnp.asarray(labels), **settings)
    check(scores, definition(points, labels, **settings), labels)
    if kind != "duplicates":
        assert scores.uncertain.sum() <= 0.02 * len(labels)


@pytest.mark.parametrize(
    ("languages", "k", "t", "distance", "way"),
    [
        pytest.param("two languages", 5, 1, "euclidean", "8 devices", marks=pytest.mark.slow),
        ("two languages", 5, 1, "euclidean", "8 devices, fast"),
        pytest.param("forty languages", 64, 30, "cosine", "fast", marks=pytest.mark.slow),
        pytest.param(
            "forty languages", 64, 30, "cosine", "8 devices, fast", marks=pytest.mark.slow
        ),
        ("two hundred and four languages", 5, 3, "cosine", "8 devices, fast"),
    ],
)
def test_fast_and_shared_against_the_definition(languages, k, t, distance, way):
    labels = UNEVEN[languages]
    settings = {
        "num_languages": int(max(labels)) + 1,
        "k": k,
        "min_languages": t,
        "distance": distance,
    }
    for points in (meanings(labels, 24), duplicates(normal(len(labels), 24))):
        scores = ilo(jnp.asarray(points), languages=jnp.asarray(labels), **settings, **WAYS[way])
        check(scores, definition(points, labels, **settings), labels)


@pytest.mark.parametrize("way", [pytest.param("fast", marks=pytest.mark.slow), "8 devices, fast"])
def test_redone_points_are_counted_by_language(way):
    """Those of the last two languages lie too close together for bfloat16."""
    states = normal(4, 30, 24)
    states[2:] = states[2:, :1] + 0.01 * states[2:]
    scores = ilo(jnp.asarray(states), min_languages=1, **WAYS[way])
    assert scores.redone[2:].tolist() == [30, 30]
    assert scores.redone[:2].sum() <= 10
    same(scores._replace(redone=jnp.zeros(4)), ilo(jnp.asarray(states), min_languages=1))


def test_states_may_be_split_by_sentence():
    states = jnp.asarray(meanings(np.repeat(np.arange(4), 32), 24).reshape(4, 32, 24))
    split = jax.device_put(states, along_data(MESH, axis=1))
    same(jax.jit(partial(ilo, mesh=MESH))(split), ilo(states))


@pytest.mark.parametrize("dim", [1, pytest.param(2, marks=pytest.mark.slow), 200])
def test_against_the_definition_in_few_and_many_dimensions(dim):
    states = normal(5, 12, dim) + (2 if dim == 1 else 0)
    labels = np.repeat(np.arange(5), 12)
    settings = {"k": 5, "min_languages": 3, "distance": "euclidean"}
    expected = definition(states.reshape(60, dim), labels, num_languages=5, **settings)
    scores = ilo(jnp.asarray(states), **settings)
    check(scores, expected, labels)
    assert scores.uncertain.sum() <= 1


@pytest.mark.parametrize(
    ("lang", "k", "t"), [(31, 5, 3), (31, 5, 5), pytest.param(4, 5, 3, marks=pytest.mark.slow)]
)
def test_against_the_algorithm_of_the_paper(lang, k, t):
    labels = np.repeat(np.arange(lang), 20)
    states = meanings(labels, 48).reshape(lang, 20, 48)
    scores = ilo(jnp.asarray(states), k=k, min_languages=t)
    check(scores, paper(states, k=k, min_languages=t), labels)
    assert scores.uncertain.sum() <= 1
    assert 0 < scores.ilo.mean() < 1


def test_the_first_hit_need_not_be_the_point_itself():
    """Where all translations coincide, the paper's code drops some and keeps the point itself."""
    states = np.repeat(normal(1, 20, 16), 6, axis=0)
    scores = ilo(jnp.asarray(states), k=5, min_languages=5)
    np.testing.assert_array_equal(scores.bridge, 1)
    np.testing.assert_array_equal(scores.uncertain, 0)


def test_the_defaults_are_those_of_the_paper():
    states = jnp.asarray(normal(4, 30, 16))
    expected = ilo(states, k=5, min_languages=3, distance="cosine")
    jax.tree.map(np.testing.assert_array_equal, ilo(states), expected)


def test_languages_far_apart_score_zero():
    states = normal(4, 30, 8) + 100 * normal(4, 1, 8, seed=1)
    scores = ilo(jnp.asarray(states), min_languages=1, distance="euclidean")
    for score in scores:
        np.testing.assert_array_equal(score, 0)


def test_reach_without_bridge_scores_zero():
    """Pairs of languages coincide: each reaches one of three others, no point two of them."""
    pairs = np.repeat(normal(2, 30, 8) + 100 * normal(2, 1, 8, seed=1), 2, axis=0)
    states = pairs + 0.01 * normal(4, 30, 8, seed=2)
    scores = ilo(jnp.asarray(states), min_languages=2, distance="euclidean")
    np.testing.assert_array_equal(scores.bridge, 0)
    np.testing.assert_array_equal(scores.reach, np.float32(1 / 3))
    np.testing.assert_array_equal(scores.ilo, 0)


def test_close_translations_score_one():
    states = normal(1, 30, 16) + 0.01 * normal(8, 30, 16, seed=1)
    scores = ilo(jnp.asarray(states), k=7, min_languages=7)
    for score in scores[:3]:
        np.testing.assert_array_equal(score, 1)


@pytest.mark.parametrize(("lang", "chance"), [(31, 0.999), (4, 0.57)])
def test_noise_scores_what_chance_gives(lang, chance):
    scores = ilo(jnp.asarray(normal(lang, 31 * 64 // lang, 64)))
    assert abs(float(scores.ilo.mean()) - chance) < (0.002 if lang == 31 else 0.03)


LABELS = UNEVEN["twelve languages"]
POINTS = meanings(LABELS, 24)


def score(
    points: Any = POINTS, labels: Any = LABELS, *, num_languages=12, distance="cosine"
) -> IloScores:
    settings = {"num_languages": num_languages, "distance": distance, "min_languages": 2}
    return ilo(jnp.asarray(points), languages=jnp.asarray(labels), **settings)


def same(scores: IloScores, expected: IloScores) -> None:
    assert not expected.uncertain.any()
    jax.tree.map(np.testing.assert_array_equal, scores, expected)


def test_order_of_points_changes_nothing():
    order = np.random.default_rng(0).permutation(len(LABELS))
    same(score(POINTS[order], LABELS[order]), score())


def test_order_of_languages_changes_nothing_else():
    names = np.random.default_rng(0).permutation(12)
    scores = score(labels=names[LABELS])
    renamed = jax.tree.map(lambda x: x[names] if x.ndim else x, scores)
    same(renamed, score())


def test_order_of_sentences_changes_nothing():
    states = normal(4, 30, 16)
    shuffled = np.random.default_rng(0).permuted(np.arange(120).reshape(4, 30), axis=1)
    same(ilo(jnp.asarray(states.reshape(120, 16)[shuffled])), ilo(jnp.asarray(states)))


def test_scale_changes_nothing_under_cosine():
    same(score(POINTS * np.exp(normal(len(POINTS), 1))), score())


def test_translation_changes_nothing_under_euclidean():
    points = np.round(POINTS * 256) / 256
    same(score(points + 64, distance="euclidean"), score(points, distance="euclidean"))


def test_states_by_language_are_points_with_labels():
    states = jnp.asarray(normal(4, 30, 16))
    labels = jnp.repeat(jnp.arange(4), 30)
    same(ilo(states.reshape(120, 16), languages=labels, num_languages=4), ilo(states))


@pytest.mark.parametrize("absent", [-1, -7, 12])
@pytest.mark.parametrize("rows", [POINTS[:4], POINTS[:4] * 1e20, np.full((4, 24), np.nan)])
def test_points_of_no_language_are_not_there(absent, rows):
    """Also where they lie nearest of all, far away, or nowhere; they are counted."""
    places = [0, 5, 5, len(LABELS)]
    points, labels = np.insert(POINTS, places, rows, axis=0), np.insert(LABELS, places, absent)
    expected = score()._replace(unlabelled=4)
    same(jax.jit(score)(points, labels), expected)
    if absent == -1:
        same(score(points, labels), expected)
        return
    with pytest.raises(
        ValueError, match=r"^languages must be in \[0, 12\), or -1 for no language, "
    ):
        score(points, labels)


def test_what_is_left_out_is_counted_on_devices_and_under_transforms():
    points = jnp.asarray(np.stack([POINTS[:96], POINTS[-96:]]))
    labels = np.stack([LABELS[:96], LABELS[-96:]])
    labels[0, :5] = -1
    given = partial(score, num_languages=12)
    expected = [given(*one) for one in zip(points, labels, strict=True)]
    for transform in (jax.vmap, jax.pmap):
        found = transform(given)(points, jnp.asarray(labels))
        assert found.unlabelled.tolist() == [5, 0]
        for i, one in enumerate(expected):
            same(jax.tree.map(lambda x, i=i: x[i], found), one)
    shared: dict[str, Any] = {"num_languages": 12, "min_languages": 2, "mesh": MESH}
    same(ilo(points[0], languages=jnp.asarray(labels[0]), **shared), expected[0])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_unusable_points_are_counted_and_dropped(value):
    places = [0, 5, 5, len(LABELS)]
    scores = score(
        np.insert(POINTS, places, value, axis=0), np.insert(LABELS, places, [0, 3, 3, 9])
    )
    unusable = np.bincount([0, 3, 3, 9], minlength=12)
    same(scores, score()._replace(unusable=unusable))


def test_an_empty_language_has_no_scores_and_is_not_reached():
    points = POINTS.copy()
    points[LABELS == 11] = np.nan
    scores = score(points)
    expected = score(points[LABELS < 11], LABELS[LABELS < 11], num_languages=11)
    for found, true in zip(scores[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(found, np.append(true, np.nan))
    np.testing.assert_array_equal(scores.unusable, [0] * 11 + [12])


@pytest.mark.parametrize(
    ("left", "bridges", "reaches"), [(1, 0, 0), (2, 0, 2), (3, 0, 3), (4, 4, 4)]
)
def test_too_few_languages_left_have_no_scores(left, bridges, reaches):
    states = jnp.asarray(normal(5, 12, 8)).at[left:].set(jnp.nan)
    scores = ilo(states, min_languages=3)
    assert np.isfinite(scores.bridge).sum() == bridges
    assert np.isfinite(scores.reach).sum() == reaches
    assert np.isfinite(scores.ilo).sum() == bridges


def test_too_few_points_left_have_no_scores():
    states = jnp.asarray(normal(3, 4, 8)).at[:, 2:].set(jnp.nan).at[0, 1].set(jnp.nan)
    scores = ilo(states, k=5, min_languages=1)
    for found in scores[:3]:
        np.testing.assert_array_equal(found, np.nan)
    np.testing.assert_array_equal(scores.unusable, [3, 2, 2])


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(jax.vmap, id="vmap", marks=pytest.mark.slow),
        pytest.param(partial(partial, jax.lax.map), id="map"),
    ],
)
def test_layers_are_scored_one_by_one(transform):
    states = jnp.asarray(normal(3, 4, 30, 16))
    scores = jax.jit(transform(ilo))(states)
    for layer, one in enumerate(states):
        same(IloScores(*(score[layer] for score in scores)), ilo(one))


def test_the_gradient_is_stopped():
    gradient = jax.grad(lambda states: ilo(states).ilo.sum())(jnp.asarray(normal(5, 12, 8)))
    np.testing.assert_array_equal(gradient, 0)


NEIGHBORS = Neighbors(
    index=jnp.array([[1, 2], [0, 3], [4, 3], [1, 0], [-1, -1]]),
    uncertain=jnp.array([True, False, False, False, False]),
    unusable=jnp.array([False, False, False, False, True]),
    redone=jnp.zeros(5, bool),
)
NAMES = jnp.array([0, 0, 1, 2, 2])


def test_parts_by_hand():
    touches = touched(NEIGHBORS.index, NAMES, num_languages=3)
    np.testing.assert_array_equal(
        touches, np.array([[0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0], [0, 0, 0]], bool)
    )
    np.testing.assert_allclose(bridge(touches, NAMES, min_languages=1), [1, 1, 0.5])
    np.testing.assert_array_equal(bridge(touches, NAMES, min_languages=2), 0)
    np.testing.assert_allclose(reach(touches, NAMES), [1, 0.5, 0.5])


def test_tally_by_hand():
    scores = tally(NEIGHBORS, NAMES, num_languages=3, min_languages=1)
    np.testing.assert_allclose(scores.bridge, [1, 1, 1])
    np.testing.assert_allclose(scores.reach, [1, 0.5, 0.5])
    np.testing.assert_allclose(scores.ilo, [1, 2 / 3, 2 / 3])
    np.testing.assert_array_equal(scores.uncertain, [1, 0, 0])
    np.testing.assert_array_equal(scores.unusable, [0, 0, 1])


def test_tally_of_neighbours_is_ilo():
    neighbors = nearest(jnp.asarray(POINTS), k=5)
    same(tally(neighbors, jnp.asarray(LABELS), num_languages=12, min_languages=2), score())


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


ERRORS = [
    (
        {"k": 0},
        "k must be in [1, 119] for 120 points, got 0; min_languages must be in [1, 1] for "
        "k=0 and 4 languages, got 3",
    ),
    ({"k": 120}, "k must be in [1, 119] for 120 points, got 120"),
    ({"min_languages": 0}, "min_languages must be in [1, 3] for k=5 and 4 languages, got 0"),
    ({"min_languages": 4}, "min_languages must be in [1, 3] for k=5 and 4 languages, got 4"),
    ({"k": 2}, "min_languages must be in [1, 2] for k=2 and 4 languages, got 3"),
    ({"distance": "dot"}, "distance must be one of cosine, euclidean, got 'dot'"),
    (
        {"k": 500, "min_languages": -1, "distance": ""},
        "k must be in [1, 119] for 120 points, got 500; distance must be one of cosine, euclidean, "
        "got ''; min_languages must be in [1, 3] for k=500 and 4 languages, got -1",
    ),
]


@pytest.mark.parametrize(("settings", "message"), ERRORS, ids=lambda v: str(v)[:40])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=exactly(message)):
        ilo(jnp.zeros((4, 30, 8)), **settings)
    counts = {"num_points": 120, "num_languages": 4}
    with pytest.raises(ValueError, match=exactly(message)):
        check_settings(IloSettings(**settings), **counts)


def test_one_language_is_refused():
    with pytest.raises(ValueError, match=exactly("there must be at least 2 languages, got 1")):
        ilo(jnp.zeros((1, 30, 8)), min_languages=1)


def test_a_tally_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match=r"^min_languages must be in \[1, 2\] for k=2 and 3 langu"):
        tally(NEIGHBORS, NAMES, num_languages=3, min_languages=3)


SHAPES = "states must have the shape (lang, sent, dim), or (point, dim) with languages and num_"
UNTOLD = [
    ((120, 8), {}, "languages; got (120, 8) with neither"),
    ((120, 8), {"num_languages": 4}, "languages; got (120, 8) with num_languages"),
    ((120, 8), {"languages": jnp.zeros(120, int)}, "languages; got (120, 8) with languages"),
    ((4, 30, 8), {"num_languages": 4}, "languages; got (4, 30, 8) with num_languages"),
    (
        (4, 30, 8),
        {"num_languages": 4, "languages": jnp.zeros(120, int)},
        "languages; got (4, 30, 8) with languages and num_languages",
    ),
]


@pytest.mark.parametrize(("shape", "given", "message"), UNTOLD, ids=lambda v: str(v)[-30:])
def test_languages_must_be_told_once(shape, given, message):
    with pytest.raises(ValueError, match=exactly(SHAPES + message)):
        ilo(jnp.zeros(shape), **given)


def test_a_label_for_each_point_is_asked_for():
    """Callers have no shape checks: the function is called as they call it."""
    message = "languages must have the shape (24,) for states (24, 8), got (23,)"
    unchecked = inspect.unwrap(count_languages)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        unchecked(jnp.ones((24, 8)), jnp.zeros(23, int), 4)


def test_an_unknown_precision_is_refused():
    message = "precision must be one of exact, fast, got 'low'"
    with pytest.raises(ValueError, match=exactly(message)):
        ilo(jnp.zeros((4, 30, 8)), precision="low")
