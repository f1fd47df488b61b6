r"""Logistic regression with L2 regularisation on random data, strongly convex.

$$f(w, b) = \frac{1}{n}\sum_i \log(1 + e^{-y_i (w^\top x_i + b)}) + \frac{\lambda}{2}\lVert w \rVert^2.$$

Each task draws its own data: $x_i \sim N(0, \mathrm{diag}(s^2))$ with feature scales $s$ spread log-uniformly, and labels
$y_i \in \{-1, 1\}$ from a random true $w$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from l2o._task import AbstractTask, TaskFamily

HORIZON = 100


class Logistic(AbstractTask):
    """Binary logistic regression on the rows of `x`, full batch."""

    x: Float[Array, "num_examples dim"]
    y: Float[Array, " num_examples"]  # -1 or 1
    weight_decay: float = eqx.field(static=True)

    def init(self, key):
        return {"w": jnp.zeros(self.x.shape[1]), "b": jnp.zeros(())}

    def loss(self, params, key, *, split="train"):
        margin = self.y * (self.x @ params["w"] + params["b"])
        return jnp.mean(jax.nn.softplus(-margin)) + 0.5 * self.weight_decay * jnp.sum(params["w"] ** 2)

    def metrics(self, params, key, *, split="test"):
        return {"accuracy": jnp.mean(self.y * (self.x @ params["w"] + params["b"]) > 0)}


def family(
    *, dim: int = 20, num_examples: int = 200, scale_spread: float = 10.0, weight_decay: float = 1e-3
) -> TaskFamily:
    """Draws data sets of `num_examples` x `dim`; `scale_spread` is the ratio of the largest to the smallest feature scale."""

    def logistic(key):
        x_key, scale_key, w_key, y_key = jax.random.split(key, 4)
        scales = scale_spread ** (jax.random.uniform(scale_key, (dim,)) - 0.5)
        x = scales[None] * jax.random.normal(x_key, (num_examples, dim))
        logits = x @ jax.random.normal(w_key, (dim,))
        y = jnp.where(jax.random.uniform(y_key, (num_examples,)) < jax.nn.sigmoid(logits), 1.0, -1.0)
        return Logistic(x, y, weight_decay)

    return logistic
