"""Strict modes. (Do not import l2o here: it would escape the run-time type checking that pytest turns on later.)"""

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision, where two routes to one number agree to many digits or not at all."""
    with jax.enable_x64(True):
        yield
