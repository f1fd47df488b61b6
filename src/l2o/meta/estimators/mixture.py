"""Meta-training on several families of problems at once."""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from l2o.core import keys as _keys
from l2o.core.checks import kind, positive
from l2o.meta.estimators import AbstractGradientEstimator, Estimate
from l2o.meta.estimators._base import has_diverged


class Mixture(AbstractGradientEstimator):
    r"""The weighted mean of several estimators' meta-gradients, each clipped to a norm of `max_norm` first.

    $$\hat\nabla = \frac{1}{\sum_i w_i} \sum_i w_i \min\Bigl(1, \frac{\texttt{max\_norm}}{\lVert\hat\nabla_i\rVert}\Bigr)
    \hat\nabla_i$$

    For families whose params differ in their shapes, which no one family can draw. An optimizer is at home on what it was
    meta-trained on; with a mixture that is more than one kind of problem:

    ```python
    import jax
    import l2o
    from l2o.optimizers import lstm
    from l2o.meta.estimators.bptt import BPTT
    from l2o.tasks import mlp

    key = jax.random.key(0)
    start = lstm.build(key)
    nets = [mlp.family(), mlp.family(hidden=(20, 20))]
    problems = [l2o.InnerTraining(net, horizon=100, truncation=20) for net in nets]
    result = l2o.meta_train(start, l2o.Mixture([BPTT(p, num_tasks=4) for p in problems]), num_steps=1000, key=key)
    ```

    Losses of one family may be a hundred times those of another, and meta-gradients explode on some families and not on others:
    without the clip the largest would be the only one heard. Episodes go on, and start anew, each family's for itself. The
    meta-loss is the weighted mean of the families'. A family of which every task diverged is left out of both.

    **Arguments:**

    - `estimators`: one for each family, of one kind or of several.
    - `weights`: $w_i$, positive; default 1 for all.
    - `max_norm`: in the meta-parameters' space, as of `default_outer_optimizer`, whose clip applies to the mean.
        Where tasks are divided among devices, each device's part of an estimator's meta-gradient is clipped.

    **Raises:** `ValueError` if there is no estimator, or one for PyTorch loops, for weights that are not one positive number for
    each, and for a `max_norm` that is not positive.
    """

    estimators: tuple[AbstractGradientEstimator, ...]
    weights: tuple[float, ...] = eqx.field(static=True)
    max_norm: float = eqx.field(static=True)
    num_tasks: int = eqx.field(static=True)  # the largest number of devices that each estimator's can be dealt out to
    problem: None = eqx.field(static=True, default=None)

    def __init__(
        self,
        estimators: Sequence[AbstractGradientEstimator],
        weights: Sequence[float] | None = None,
        max_norm: float = 0.1,
    ):
        kind("estimators", estimators, Sequence, "a sequence of gradient estimators, one for each family")
        for i, estimator in enumerate(estimators):
            kind(f"estimators[{i}]", estimator, AbstractGradientEstimator, "a gradient estimator, such as `BPTT`")
        self.estimators = tuple(estimators)
        weights = (1.0,) * len(self.estimators) if weights is None else weights
        self.weights = tuple(positive(f"weights[{i}]", w) for i, w in enumerate(weights))
        self.problem = None
        if not self.estimators or not all(e.jitted for e in self.estimators):
            raise ValueError("`Mixture` takes at least one estimator, and none that runs PyTorch loops.")
        if len(self.weights) != len(self.estimators):
            raise ValueError(
                f"`weights` must be a positive number for each of the {len(self.estimators)} estimators, got {weights}."
            )
        self.num_tasks = math.gcd(*(e.num_tasks for e in self.estimators))
        self.max_norm = positive("max_norm", max_norm, finite=False)  # infinite: no clip

    @property
    def num_particles(self):
        return sum(e.num_particles for e in self.estimators)

    @property
    def parts(self):
        return tuple(part for estimator in self.estimators for part in estimator.parts)

    def share(self, num):
        return Mixture([e.share(num) for e in self.estimators], self.weights, self.max_norm)

    def init(self, optimizer, key):
        keys = jax.random.split(_keys.one(key), len(self.estimators))
        return tuple(e.init(optimizer, k) for e, k in zip(self.estimators, keys, strict=True))

    def estimate(self, optimizer, state, key):
        keys = jax.random.split(_keys.one(key), len(self.estimators))
        estimates, states = zip(
            *(e.estimate(optimizer, s, k) for e, s, k in zip(self.estimators, state, keys, strict=True)), strict=True
        )
        clip = optax.clip_by_global_norm(self.max_norm)
        clipped = [clip.update(e.gradient, clip.init(e.gradient))[0] for e in estimates]
        lost = jnp.stack([has_diverged(e.meta_loss, e.gradient) for e in estimates])
        loss, gradient = (self._mean(x, lost) for x in ([e.meta_loss for e in estimates], clipped))
        return Estimate(loss, gradient, jnp.sum(jnp.stack([e.num_diverged for e in estimates]))), states

    def _mean(self, values, lost):
        """Weighted, of the families that are not lost; of all where all are."""
        total = sum(self.weights)
        kept = ~lost | jnp.all(lost)
        share = (total - jnp.sum(jnp.where(kept, 0.0, jnp.asarray(self.weights)))) / total

        def mean(*values):
            parts = zip(self.weights, kept, values, strict=True)
            value = sum(jnp.where(k, w / total * v, 0) for w, k, v in parts)
            return (value / share).astype(values[0].dtype)

        return jax.tree.map(mean, *values)
