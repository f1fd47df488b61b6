"""The hand-designed rule that learned optimizers imitate before they are meta-trained further."""

import jax
import jax.numpy as jnp
import optax


def annealed(rate, *, b1, b2, eps, power, warmup, num_steps, exponent, least):
    r"""Nesterov momentum over a `power` of the mean square, $-a_t\, \bar m_t / (\hat v_t^p + \epsilon)$, with an annealed rate.

    $a_t$ is `rate` times $\min(1, (t + 1) / \text{warmup})\, \max(\text{least}, (1 - t / \text{num\_steps})^\text{exponent})$.
    """

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return jnp.zeros(()), zeros, zeros

    def update(gradient, state, params=None):
        t, m, v = state
        m = optax.tree.update_moment(gradient, m, b1, 1)
        v = optax.tree.update_moment(gradient, v, b2, 2)
        ahead = optax.tree.bias_correction(optax.tree.update_moment(gradient, m, b1, 1), b1, t + 1)
        v_hat = optax.tree.bias_correction(v, b2, t + 1)
        schedule = jnp.minimum(1.0, (t + 1) / warmup) * jnp.maximum(
            least, jnp.maximum(0.0, 1 - t / num_steps) ** exponent
        )
        step = jax.tree.map(lambda m, v: -rate * schedule * m / ((v + 1e-20) ** power + eps), ahead, v_hat)
        return step, (t + 1, m, v)

    return optax.GradientTransformation(init, update)
