import pytest

from ilo_jax.sharding import make_mesh


@pytest.fixture(scope="session")
def mesh():
    """Return a mesh of one device."""
    return make_mesh(data=1)
