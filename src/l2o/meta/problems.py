"""Inner training as gradient estimators see it: episodes that advance one truncation at a time."""

import abc
import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from l2o.core import keys
from l2o.core.checks import count, counts, kind
from l2o.core.inner_loop import InnerState
from l2o.core.meta_gradient.forms import AbstractMetaGradient, check_form
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, default_form, unroll


class AbstractInnerProblem(eqx.Module):
    """All that a gradient estimator may see of inner training: episodes that advance one truncation at a time."""

    @abc.abstractmethod
    def init(self, optimizer: AbstractLearnedOptimizer, key: PRNGKeyArray) -> PyTree:
        """Starts an episode."""

    @abc.abstractmethod
    def advance(self, optimizer: AbstractLearnedOptimizer, state: PyTree) -> tuple[PyTree, Float[Array, ""]]:
        """Runs one truncation; returns the new state and the truncation's meta-loss."""

    @abc.abstractmethod
    def finished(self, state: PyTree) -> Bool[Array, ""]:
        """Whether the episode has reached its horizon."""

    def staggered(self, state: PyTree, index: Int[Array, ""] | int, num: int) -> PyTree:
        """The start of episode `index` of `num` that are to end at different times: some end early, this once.

        By default none does.
        """
        return state

    def side_by_side(self, num: int) -> "AbstractInnerProblem":
        """The same problem, told that `num` episodes are advanced in one vectorised program, whose memory they share."""
        return self


class Episode(eqx.Module):
    """State of `InnerTraining`: the task's key (the task is rebuilt from it, not stored) and the inner state."""

    key: PRNGKeyArray
    inner: InnerState
    end: Int[Array, ""]  # the step at which it is over


class InnerTraining(AbstractInnerProblem):
    r"""Episodes of training a task drawn from `family` for `horizon` steps, `truncation` steps at a time.

    The meta-loss of a truncation is $\frac{1}{K} \sum_t w_t f(\theta_t)$ over its $K$ = `truncation` steps.

    **Arguments:**

    - `step_weights`: $w_t$, shape [horizon]; default 1 (Andrychowicz et al. 2016).
    - `split`: which loss is the meta-loss, as in `unroll`. "outer" asks the task for an independent, larger batch.
    - `meta_gradient`: as in `unroll`. The default counts the memory of all episodes that an estimator runs side by side.

    **Raises:** `ValueError` if `horizon` or `truncation` is not a positive whole number, `truncation` does not divide `horizon`,
    or `step_weights` is not of length `horizon`; `TypeError` for what is no family, or no form of the meta-gradient.
    """

    family: TaskFamily
    horizon: int = eqx.field(static=True)
    truncation: int = eqx.field(static=True)
    step_weights: Float[Array, " horizon"] | None = None
    split: str = eqx.field(static=True, default="train")
    meta_gradient: AbstractMetaGradient | None = eqx.field(static=True, default=None)
    num_together: int = eqx.field(static=True, default=1, kw_only=True, repr=False)  # see `side_by_side`

    def __check_init__(self):
        check_callable(self.family)
        check_truncation(self.horizon, self.truncation)
        kind("split", self.split, str, "the name of a split, such as 'train'")
        check_form(self.meta_gradient)
        kind("step_weights", self.step_weights, jax.Array | np.ndarray | None, "an array [horizon], or None")
        if self.step_weights is not None and self.step_weights.shape != (self.horizon,):
            raise ValueError(
                f"`step_weights` must have one weight per step of the horizon, got shape {self.step_weights.shape} and "
                f"horizon={self.horizon}."
            )

    def side_by_side(self, num):
        return dataclasses.replace(self, num_together=num)

    def init(self, optimizer, key):
        key = keys.one(key)
        return Episode(key, begin(self.family, optimizer, key)[1], jnp.asarray(self.horizon, jnp.int32))

    def staggered(self, state, index, num):
        early = index * (self.horizon // self.truncation) // num
        return dataclasses.replace(state, end=jnp.asarray(self.horizon - self.truncation * early, jnp.int32))

    def advance(self, optimizer, state):
        task, _, batch_key = begin(self.family, optimizer, state.key)
        form = self.meta_gradient
        if form is None:
            form = default_form(optimizer, state.inner.params, self.truncation, self.num_together)
        inner, losses = unroll(
            task,
            optimizer,
            state.inner,
            batch_key,
            length=self.truncation,
            split=self.split,
            meta_gradient=form,
        )
        if self.step_weights is not None:
            first = state.inner.step
            losses = losses * jax.lax.dynamic_slice(self.step_weights, (first,), (self.truncation,))
        return dataclasses.replace(state, inner=inner), jnp.mean(losses)

    def finished(self, state):
        return state.inner.step >= state.end


def check_truncation(horizon: int, truncation: int) -> None:
    """Refuses what are no positive whole numbers, or not a whole number of truncations.

    **Raises:** `ValueError`.
    """
    counts(horizon=horizon)
    count("truncation", truncation, at_least=0)
    if truncation < 1 or horizon % truncation:
        raise ValueError(f"`truncation` must divide `horizon`, got truncation={truncation} and horizon={horizon}.")
