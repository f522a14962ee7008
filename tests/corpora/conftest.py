from pathlib import Path

import pytest

from ilo_jax.corpora.preparing import prepare
from tests.corpora.material import write_corpus, write_flores


@pytest.fixture
def flores_like(tmp_path: Path) -> Path:
    return write_flores(tmp_path / "flores200_dataset")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A dataset of TEXT."""
    return prepare(write_corpus(tmp_path / "text", "txt"), tmp_path / "data", name="text")
