"""Imitation of a hand-designed optimizer, a quick start for meta-training.

Chen et al. 2020, "Training Stronger Baselines for Learning to Optimize", section 4.2.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from l2o.core import keys
from l2o.core.checks import kind, share
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, check_callable
from l2o.core.unroll import begin, unroll
from l2o.meta.problems import AbstractInnerProblem, Episode, check_truncation


class Imitation(AbstractInnerProblem):
    r"""Episodes whose meta-loss is the distance of the student's updates $u_t$ from the teacher's $v_t$.

    $$\frac{\sum_t \lVert u_t - v_t \rVert^2}{\sum_t \lVert v_t \rVert^2}$$

    over a truncation, both fed the same gradients. Each episode follows the student's updates with probability
    `on_policy`, else the teacher's, so that the student also learns what to do where its own mistakes lead.

    Supervised, so the gradient has none of the heavy tails of back-propagation through an unrolled optimizee. The student
    it gives is a start for `InnerTraining`, not an end.
    """

    family: TaskFamily
    teacher: optax.GradientTransformation = eqx.field(static=True)
    horizon: int = eqx.field(static=True)
    truncation: int = eqx.field(static=True)
    on_policy: float = eqx.field(static=True, default=0.5)

    def __check_init__(self):
        check_callable(self.family)
        kind(
            "teacher", self.teacher, optax.GradientTransformation, "an optax transformation, such as `optax.adam(1e-2)`"
        )
        check_truncation(self.horizon, self.truncation)
        share("on_policy", self.on_policy)

    def init(self, optimizer, key):
        key = keys.one(key)
        return Episode(
            key, begin(self.family, self._pair(optimizer, key), key)[1], jnp.asarray(self.horizon, jnp.int32)
        )

    def advance(self, optimizer, state):
        pair = self._pair(optimizer, state.key)
        task, _, batch_key = begin(self.family, pair, state.key)
        inner = eqx.tree_at(lambda s: s.opt_state[2], state.inner, (jnp.zeros(()), jnp.zeros(())))
        inner, _ = unroll(task, pair, inner, batch_key, length=self.truncation)
        distance, size = inner.opt_state[2]
        return dataclasses.replace(state, inner=inner), distance / (size + 1e-20)

    def finished(self, state):
        return state.inner.step >= state.end

    def _pair(self, optimizer, key):
        return _Pair(optimizer, self.teacher, jax.random.bernoulli(keys.of_choice(key), self.on_policy))


class _Pair(AbstractLearnedOptimizer):
    """Student and teacher side by side; the state's third part sums the squares of their difference and of the teacher."""

    student: AbstractLearnedOptimizer
    teacher: optax.GradientTransformation = eqx.field(static=True)
    follow_student: Bool[Array, ""]

    def init(self, params):
        return self.student.init(params), self.teacher.init(params), (jnp.zeros(()), jnp.zeros(()))

    def update(self, updates, state, params=None, **extra: Any):
        student_state, teacher_state, (distance, size) = state
        u, student_state = self.student.update(updates, student_state, params)
        v, teacher_state = self.teacher.update(updates, teacher_state, params)
        distance += optax.tree.norm(optax.tree.sub(u, v), squared=True)
        size += optax.tree.norm(v, squared=True)
        followed = jax.tree.map(lambda a, b: jnp.where(self.follow_student, a, b), u, v)
        return followed, (student_state, teacher_state, (distance, size))
