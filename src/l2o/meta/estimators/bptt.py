"""Truncated back-propagation through time (Werbos 1990; for learned optimizers Andrychowicz et al. 2016, section 2)."""

import equinox as eqx
import jax
import jax.numpy as jnp

from l2o.core import keys as _keys
from l2o.core.checks import count, counts, flags, kind
from l2o.meta.estimators._base import AbstractGradientEstimator, Estimate, has_diverged, mean_of_finite, restart, start
from l2o.meta.problems import AbstractInnerProblem


class BPTT(AbstractGradientEstimator):
    r"""The gradient of each truncation's meta-loss, its start held fixed.

    $$\frac{1}{N}\sum_n \frac{d}{d\varphi} L_n(\varphi; s_n)$$

    No variance beyond that of the tasks, but biased: the effect of $\varphi$ on later truncations through the state is
    dropped. Truncation = horizon removes the bias, at the price of exploding meta-gradients on long horizons. Memory is
    that of one truncation's backward pass, times `batch_size`.

    **Arguments:**

    - `batch_size`: tasks run at once, in one vectorised program; default all. Fewer is faster where one task fills the machine
        (networks on a CPU), more where tasks are tiny.
    - `staggered`: episodes end at different times, as their first ones are cut short, so every meta-gradient is of all parts of
        the horizon. Otherwise all begin and end together, and it is of one part after the other, which was worse in every pair
        of runs (experiments/LOG.md). The episodes of every device are spread among themselves.

    A task whose meta-loss or gradient is not finite is left out of the mean and counted.

    **Raises:** `ValueError` if `num_tasks` or `batch_size` is not a positive whole number.
    """

    problem: AbstractInnerProblem
    num_tasks: int = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True, default=None)
    staggered: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self):
        kind("problem", self.problem, AbstractInnerProblem, "an inner problem, such as `l2o.InnerTraining`")
        count("num_tasks", self.num_tasks)
        counts(batch_size=self.batch_size)
        flags(staggered=self.staggered)

    def init(self, optimizer, key):
        return start(self, optimizer, key)

    def estimate(self, optimizer, state, key):
        batch_size = min(self.batch_size or self.num_tasks, self.num_tasks)
        problem = self.problem.side_by_side(batch_size)

        @eqx.filter_grad(has_aux=True)
        def gradient(optimizer, state):
            state, meta_loss = problem.advance(optimizer, state)
            return meta_loss, (meta_loss, state)

        def one_task(inputs):
            state, key = inputs
            g, (meta_loss, state) = gradient(optimizer, state)
            diverged = has_diverged(meta_loss, g)
            fresh = problem.init(optimizer, key)
            return g, meta_loss, diverged, restart(diverged | problem.finished(state), fresh, state)

        inputs = (state, jax.random.split(_keys.one(key), self.num_tasks))
        grads, losses, diverged, state = jax.lax.map(one_task, inputs, batch_size=batch_size)
        meta_loss, mean = mean_of_finite((losses, grads), diverged)
        return Estimate(meta_loss, mean, jnp.sum(diverged)), state


build = BPTT
