"""The layout is a promise: modules import only what stands to their left, and have a test."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["processes", "sharding", "corpora", "models", "activations", "metrics", "training"]
MODULES = sorted(p for p in (ROOT / "ilo_jax").rglob("*.py") if p.name != "__init__.py")


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


def part(module: str) -> str:
    return module.split(".")[1] if module.startswith("ilo_jax.") else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_to_the_left(path: Path):
    own = path.relative_to(ROOT / "ilo_jax").parts[0].removesuffix(".py")
    names = imported(path)
    assert not [n for n in names if n.startswith((".", "experiments", "configs", "tests"))]
    allowed = {own} if own == "metrics" else set(ORDER[: ORDER.index(own) + 1])
    assert {part(n) for n in names} - {""} <= allowed


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_module_has_its_test(path: Path):
    inside = path.relative_to(ROOT / "ilo_jax")
    assert (ROOT / "tests" / inside.with_name(f"test_{inside.name}")).is_file()


def test_experiments_import_no_config():
    for path in (ROOT / "experiments").glob("*.py"):
        assert not [n for n in imported(path) if n.startswith("configs")]
