"""Persistent evolution strategies (Vicol, Metz & Sohl-Dickstein 2021)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from l2o.core import keys
from l2o.core.checks import count, flags, kind, positive
from l2o.meta.estimators._base import AbstractGradientEstimator, Estimate, has_diverged, mean_of_finite, restart, start
from l2o.meta.problems import AbstractInnerProblem


class _PESState(eqx.Module):
    positive: PyTree  # [num_tasks, ...] states of the particles perturbed by +epsilon
    negative: PyTree
    accumulated: PyTree  # [num_tasks, ...] sum of this episode's perturbations


class PES(AbstractGradientEstimator):
    r"""Evolution strategies whose perturbations are remembered for the length of an episode.

    $$\frac{1}{N}\sum_n \frac{\xi_n}{2\sigma^2}\bigl(L_n(\varphi + \epsilon_n) - L_n(\varphi - \epsilon_n)\bigr),
    \qquad \xi_n = \sum_\tau \epsilon_n^{(\tau)}$$

    Antithetic pairs of particles with perturbations $\epsilon \sim N(0, \sigma^2 I)$; each pair keeps the sum $\xi$ of the
    perturbations since its episode began, which removes the truncation bias. Unbiased for the $\sigma$-smoothed full-horizon
    meta-loss; no derivative of anything is taken; the variance grows with the number of truncations per episode and the
    number of meta-parameters (algorithm 2 of the paper).

    The meta-gradient is that of the *sum* of an episode's truncation losses divided over its truncations, one per call.

    **Arguments:** `std`: $\sigma$. `staggered`: as of `BPTT`. `num_tasks` counts pairs; one of which either loss is not finite is
    left out of the mean, and counted.

    **Raises:** `ValueError` if `num_tasks` is not a positive whole number, or `std` not positive and finite.
    """

    problem: AbstractInnerProblem
    num_tasks: int = eqx.field(static=True)
    std: float = eqx.field(static=True, default=0.01)
    staggered: bool = eqx.field(static=True, default=True, kw_only=True)

    def __check_init__(self):
        kind("problem", self.problem, AbstractInnerProblem, "an inner problem, such as `l2o.InnerTraining`")
        count("num_tasks", self.num_tasks)
        positive("std", self.std)
        flags(staggered=self.staggered)

    @property
    def num_particles(self):
        return 2 * self.num_tasks

    def init(self, optimizer, key):
        episodes = start(self, optimizer, key)
        arrays = eqx.filter(optimizer, eqx.is_inexact_array)
        zeros = jax.tree.map(lambda x: jnp.zeros((self.num_tasks, *x.shape), x.dtype), arrays)
        return _PESState(episodes, episodes, zeros)

    def estimate(self, optimizer, state, key):
        arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)
        leaves, treedef = jax.tree.flatten(arrays)

        def one_pair(state, key):
            *noise_keys, init_key = jax.random.split(key, len(leaves) + 1)
            noise = [self.std * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(noise_keys, leaves, strict=True)]
            epsilon = jax.tree.unflatten(treedef, noise)

            def perturbed(sign):
                return eqx.combine(jax.tree.map(lambda a, e: a + sign * e, arrays, epsilon), static)

            positive, loss_positive = self.problem.advance(perturbed(1.0), state.positive)
            negative, loss_negative = self.problem.advance(perturbed(-1.0), state.negative)
            accumulated = jax.tree.map(jnp.add, state.accumulated, epsilon)
            factor = (loss_positive - loss_negative) / (2 * self.std**2)
            gradient = jax.tree.map(lambda xi: (factor * xi).astype(xi.dtype), accumulated)
            meta_loss = (loss_positive + loss_negative) / 2
            diverged = has_diverged(meta_loss, gradient)
            episode = self.problem.init(optimizer, init_key)
            fresh = _PESState(episode, episode, jax.tree.map(jnp.zeros_like, accumulated))
            state = restart(
                diverged | self.problem.finished(positive), fresh, _PESState(positive, negative, accumulated)
            )
            return gradient, meta_loss, diverged, state

        grads, losses, diverged, state = jax.vmap(one_pair)(state, jax.random.split(keys.one(key), self.num_tasks))
        meta_loss, gradient = mean_of_finite((losses, grads), diverged)
        return Estimate(meta_loss, gradient, jnp.sum(diverged)), state


build = PES
