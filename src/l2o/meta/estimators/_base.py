"""The interface of meta-gradient estimators."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from l2o.core import keys
from l2o.core.optimizer import AbstractLearnedOptimizer


class Estimate(eqx.Module):
    """What one call of an estimator found: means over the tasks that did not diverge.

    Where all did, the mean is over all, and not finite.
    """

    meta_loss: Float[Array, ""]
    gradient: PyTree  # of the optimizer's structure, `None` where it has no inexact arrays
    num_diverged: Int[Array, ""]  # tasks whose meta-loss or gradient was not finite; their episodes are started afresh


class AbstractGradientEstimator(eqx.Module):
    """Estimates the meta-gradient from `num_tasks` episodes run side by side.

    `problem` is `None` where something that JAX knows nothing of runs the episodes, whole ones at every call.
    """

    jitted: ClassVar[bool] = True  # False: `init` and `estimate` are plain Python, run on the host as they are

    problem: eqx.AbstractVar[Any]  # an AbstractInnerProblem, or None
    num_tasks: eqx.AbstractVar[int]

    @property
    def num_particles(self) -> int:
        """Episodes that run side by side."""
        return self.num_tasks

    @property
    def parts(self) -> "tuple[AbstractGradientEstimator, ...]":
        """The estimators that this one is made of: itself, for most."""
        return (self,)

    def share(self, num: int) -> "AbstractGradientEstimator":
        """What one of `num` devices does: its part of the tasks."""
        return dataclasses.replace(self, num_tasks=self.num_tasks // num)

    @abc.abstractmethod
    def init(self, optimizer: AbstractLearnedOptimizer, key: PRNGKeyArray) -> PyTree:
        """Starts the episodes."""

    @abc.abstractmethod
    def estimate(
        self, optimizer: AbstractLearnedOptimizer, state: PyTree, key: PRNGKeyArray
    ) -> tuple[Estimate, PyTree]:
        """Advances every episode by one truncation. Episodes that end, or diverge, are replaced by new ones."""


def start(estimator: Any, optimizer: AbstractLearnedOptimizer, key: PRNGKeyArray) -> PyTree:
    """The episodes [num_tasks, ...] that an estimator starts with, ending at different times if it is `staggered`."""

    def one(key, index):
        state = estimator.problem.init(optimizer, key)
        return estimator.problem.staggered(state, index, estimator.num_tasks) if estimator.staggered else state

    num = estimator.num_tasks
    return jax.vmap(one)(jax.random.split(keys.one(key), num), jnp.arange(num))


def has_diverged(meta_loss: Float[Array, ""], gradient: PyTree) -> Bool[Array, ""]:
    """Whether one task's meta-loss, or anything in its gradient, is not finite."""
    return ~jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in (meta_loss, *jax.tree.leaves(gradient))]))


def mean_of_finite(tree: PyTree, diverged: Bool[Array, " num_tasks"]) -> PyTree:
    """Every leaf's mean over its first axis, over the tasks that did not diverge; over all if all did."""
    kept = ~diverged | jnp.all(diverged)

    def mean(x):
        ours = kept.reshape(-1, *[1] * (x.ndim - 1))
        return jnp.sum(jnp.where(ours, x, 0), axis=0) / jnp.sum(kept).astype(jnp.real(x).dtype)

    return jax.tree.map(mean, tree)


def restart(restarts: Bool[Array, ""], fresh: PyTree, state: PyTree) -> PyTree:
    """`fresh` where `restarts`, else `state`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(restarts, a, b), fresh, state)
