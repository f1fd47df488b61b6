"""Parts of experiments/quadratics.py that stand beside the library: conjugate gradients, and what the memory is trained on."""

import importlib
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fakes import assert_trees_close, tiny_lstm

import l2o
from l2o.optimizers import ntm_bfgs
from l2o.tasks import quadratic

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def experiment():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent.parent / "experiments")
        return importlib.import_module("quadratics")


def test_conjugate_gradients_solve_n_dimensions_in_n_steps(experiment):
    rule = experiment.conjugate_gradients()
    curves = l2o.loss_curves(rule, quadratic.family(dim=4, condition=20.0), horizon=6, num_tasks=4, key=KEY)
    assert (curves[:, 3] > 1e-5).all()  # not before
    assert (curves[:, 4:] < 1e-8).all()
    assert (np.diff(curves[:, :4]) < 0).all()


def test_the_meta_loss_is_the_log_and_training_sees_the_loss(experiment):
    task = quadratic.family(dim=2)(KEY)
    params = jnp.ones(2)
    logged = experiment.LogLoss(task)
    assert logged.loss(params, KEY) == task.loss(params, KEY)
    np.testing.assert_allclose(
        logged.loss(params, KEY, split="outer"), np.log(task.loss(params, KEY) + 1e-6), rtol=1e-6
    )


@pytest.mark.slowest
@pytest.mark.slow
def test_each_tasks_meta_gradient_is_clipped(experiment):
    def gradient(problem, scale):
        def meta_loss(optimizer):
            return scale * problem.advance(optimizer, problem.init(optimizer, KEY))[1]

        return eqx.filter_grad(meta_loss)(tiny_lstm(preset="raw"))

    problem = l2o.InnerTraining(quadratic.family(dim=2), 2, 2)
    plain, clipped = (gradient(p, 1e3) for p in (problem, experiment.EachClipped(problem)))
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(plain)))
    assert norm > 1
    assert_trees_close(clipped, jax.tree.map(lambda g: g / norm, plain), rtol=1e-4, atol=1e-7)
    small = 1e-3 / norm
    unchanged = gradient(experiment.EachClipped(problem), 1e3 * small)
    assert_trees_close(unchanged, jax.tree.map(lambda g: small * g, plain), rtol=1e-4, atol=1e-9)


def test_the_low_rank_memory_has_the_same_meta_parameters(experiment):
    optimizer = ntm_bfgs.build(KEY, num_units=3, num_layers=1, num_global=1)
    pairs = experiment.with_pairs(optimizer, 7)
    assert pairs.memory_pairs == 7
    assert optimizer.memory_pairs is None
    assert_trees_close(jax.tree.leaves(pairs), jax.tree.leaves(optimizer), rtol=0)
