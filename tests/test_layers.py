"""The layout is a promise: modules import only what stands to their left, and have a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"chips", "files", "hlo", "recipes", "refusals"},
    {"alarm", "emitted", "gpu_targets", "joining", "processes"},
    {"sharding", "topologies"},
    {"compiling"},
    {"corpora"},
    {"models"},
    {"generation", "activations"},
    {"evaluation"},
    {"training"},
    {"alignment", "neurons", "sae", "lexical", "influence", "dialogue"},
]
"""Of the library, from left to right; what shares a floor does not know each other."""
DESK = {
    "board",
    "command_line",
    "hardware",
    "judgements",
    "launch",
    "pictures",
    "provenance",
    "settings",
    "states",
    "tables",
    "watch",
}
"""What all jobs share: a job imports it and the library, never another job."""
SIBLINGS = {
    ("freezing", "finetune"),
    ("fit", "extract"),
    ("fit", "finetune"),
    ("fit", "generate"),
    ("fit", "ilo"),
    ("fit", "pretrain"),
}
"""Which job imports which: the one compares runs of the other, or compiles what the others run."""
LONGEST = 300
"""Lines of a module of the library."""
LIBRARY = sorted((ROOT / "ilo_jax").rglob("*.py"))
JOBS = sorted((ROOT / "experiments").rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(path: Path) -> set[str]:
    """Names of all modules that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts(path: Path, package: str) -> set[str]:
    """The parts of a package that a file imports something of."""
    split = (name.split(".") for name in imported(path))
    return {names[1] for names in split if names[0] == package and len(names) > 1}


def part(path: Path, package: str) -> str:
    return path.relative_to(ROOT / package).parts[0].removesuffix(".py")


def allowed(own: str) -> set[str]:
    """What a part of the library may import."""
    if own == "metrics":
        return {own}
    floor = next(i for i, names in enumerate(FLOORS) if own in names)
    right_of_metrics = floor >= FLOORS.index({"evaluation"})
    return {own}.union(*FLOORS[:floor], {"metrics"} if right_of_metrics else set())


@pytest.mark.parametrize(
    "path", [p for p in LIBRARY if p.parent != ROOT / "ilo_jax" or p.stem != "__init__"], ids=named
)
def test_library_imports_only_to_the_left(path: Path):
    assert not [n for n in imported(path) if n.startswith((".", "experiments", "configs", "tests"))]
    assert parts(path, "ilo_jax") <= allowed(part(path, "ilo_jax"))


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_job_imports_the_desk_and_the_library_and_no_other_job(path: Path):
    own = part(path, "experiments")
    assert not [n for n in imported(path) if n.startswith((".", "configs", "tests"))]
    others = parts(path, "experiments") - {own}
    if own in DESK:
        assert others <= DESK
    else:
        assert {(own, other) for other in others - DESK} <= SIBLINGS


@pytest.mark.parametrize(
    "path",
    [p for p in LIBRARY + JOBS if p.name not in {"__init__.py", "__main__.py"}],
    ids=named,
)
def test_module_has_its_test(path: Path):
    inside = path.relative_to(ROOT)
    mirrored = Path(*inside.parts[1:]) if inside.parts[0] == "ilo_jax" else inside
    assert (ROOT / "tests" / mirrored.with_name(f"test_{mirrored.name}")).is_file()


@pytest.mark.parametrize("path", LIBRARY, ids=named)
def test_module_is_short(path: Path):
    assert len(path.read_text().splitlines()) <= LONGEST


@pytest.mark.parametrize("path", [p for p in JOBS if p.name == "__main__.py"], ids=named)
def test_job_has_its_test(path: Path):
    assert (ROOT / f"tests/experiments/test_{path.parent.name}.py").is_file()
