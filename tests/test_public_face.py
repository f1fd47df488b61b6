"""What a user writes first: flat names, presets, a panel of a family at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import bowls

import l2o
from l2o.optimizers import lstm

KEY = jax.random.key(0)


@pytest.mark.parametrize("preset", ["paper", "raw"])
def test_presets_have_names(preset):
    one, other = getattr(l2o.LSTM, preset)(key=KEY, num_units=3), lstm.build(KEY, preset=preset, num_units=3)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.preprocessing, one.output_scale) == (other.preprocessing, other.output_scale)


def test_a_panel_of_a_family_at_hand():
    panel = l2o.Panel.of(bowls, 5, window=2)
    assert panel.make() is bowls
    assert (panel.horizon, panel.run_to, panel.window) == (5, 5, 2)
    assert l2o.Panel.of(bowls, 5, run_to=9).run_to == 9


def test_a_state_of_one_number_for_all_coordinates_is_refused_in_words():
    class Counted(l2o.AbstractCoordinatewise):
        def init_coordinates(self, num):
            return jnp.zeros(())

        def update_coordinates(self, gradients, state, params=None):
            return -gradients, state + 1

    params = jnp.ones(3)
    with pytest.raises(ValueError, match=r"state of Counted is one number for all coordinates.*jnp\.zeros\(num\)"):
        Counted().update(params, Counted().init(params), params)
