"""Numbers of the original implementation, and of the Torch implementation before it (learning-to-learn, meta_test.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fakes import Affine, bowl

import l2o
from l2o.meta.estimators.bptt import BPTT


def test_one_meta_step_on_x_squared():
    """x^2 from 1, u = a g + b from zero, unrolls of 5 steps, one step of Adam(0.01).

    The zero rule stays at x = 1, where both meta-gradients are positive; Adam's first step is its rate, so a = b = -0.01 and
    x <- 0.98 x - 0.01. After five steps x = 0.98^5 - 0.01 (1 - 0.98^5) / 0.02 = 0.8559, and x^2 = 0.7325327.
    """
    problem = l2o.InnerTraining(bowl, horizon=10, truncation=5)
    zero = Affine(jnp.zeros(()), jnp.zeros(()))
    trained = l2o.meta_train(
        zero, BPTT(problem, num_tasks=1), optax.adam(0.01), num_steps=1, key=jax.random.key(0)
    ).optimizer
    episode, _ = problem.advance(zero, problem.init(zero, jax.random.key(0)))
    assert episode.inner.params == 1.0  # the second unroll starts where the first did

    closed_form = 0.98**5 - 0.01 * (1 - 0.98**5) / 0.02
    np.testing.assert_allclose(closed_form, 0.8559, atol=5e-5)
    episode, _ = problem.advance(trained, episode)
    # Single precision: Adam's own first step is 0.01 to six digits.
    np.testing.assert_allclose(episode.inner.params, closed_form, rtol=1e-5)
    losses = l2o.loss_curves(trained, bowl, horizon=5, num_tasks=1, key=jax.random.key(0))
    np.testing.assert_allclose(losses[0, 5], 0.7325327, rtol=1e-5)


def test_the_second_meta_loss_is_that_of_the_updated_rule():
    problem = l2o.InnerTraining(bowl, horizon=10, truncation=5)
    zero = Affine(jnp.zeros(()), jnp.zeros(()))
    result = l2o.meta_train(zero, BPTT(problem, num_tasks=1), optax.adam(0.01), num_steps=2, key=jax.random.key(0))
    x = [0.98**t - 0.01 * (1 - 0.98**t) / 0.02 for t in range(5)]
    meta_losses = [row["meta_loss"] for row in result.history]
    np.testing.assert_allclose(meta_losses, [1.0, np.mean(np.square(x))], rtol=1e-5)
