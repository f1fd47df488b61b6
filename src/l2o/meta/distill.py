r"""Distillation: a rule learns to propose what another rule proposes, from gradients recorded in whole runs.

A coordinatewise student needs no more than the gradients that some coordinates met, and what the teacher proposed for them. So
this costs next to nothing beside back-propagation through the tasks, and its memory does not grow with them.

The teacher's runs alone do not say what to do where the student's own mistakes lead. So later runs are the student's own, in
which the teacher is asked at every step what it would do (Ross et al. 2011, DAgger; Chen et al. 2020, section 4.2).
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from l2o.core import keys as _keys
from l2o.core import parallel
from l2o.core.checks import count, counts, kind
from l2o.core.curves import loss_curves
from l2o.core.finite import all_finite
from l2o.core.intervals import IntervalEstimate, ratio_interval
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, check_optimizer
from l2o.core.task import TaskFamily, check_family
from l2o.meta.lessons import Lessons, Recorder, check_memory, errors, example_params, parts_of, replayed
from l2o.meta.step import check_trainable
from l2o.optimizers.wrappers.beyond import bare
from l2o.optimizers.wrappers.chain import chain
from l2o.optimizers.wrappers.partitioned import Partitioned

_NUM_DRAWN = 8  # runs that a meta-step looks at, of rules that learn from sampled coordinates


@dataclasses.dataclass
class Distilled:
    """Result of `distill`."""

    optimizer: AbstractLearnedOptimizer  # the student, as of the last meta-step
    error: float  # the relative squared error of its updates, in runs of the teacher on fresh tasks
    # The student's mean final loss over the teacher's on fresh tasks, with its 95 % interval. NaN where losses have no ratio, as
    # one of them is negative or the teacher's is zero; infinite where the student diverged.
    lost: IntervalEstimate
    num_diverged: int  # fresh tasks on which the student ended at a loss that is not finite
    num_steps: int  # meta-steps done, skipped ones included
    num_skipped: int  # meta-steps without an update: their gradient was not finite
    num_runs: int  # that were learned from, of the teacher's and of the student's own
    num_inner_steps: int  # in all of these
    seconds: float
    history: list[dict[str, Any]]  # a row per meta-step: step, length (of the runs that it looked at), error


def distill(
    student: AbstractLearnedOptimizer,
    teacher: Optimizer | Mapping[str, Optimizer],
    family: TaskFamily,
    *,
    key: PRNGKeyArray,
    horizon: int = 100,
    num_steps: int = 600,
    num_runs: int = 4,
    num_own_runs: int = 2,
    num_coordinates: int = 1024,
    coordinates_per_step: int = 128,
    num_tasks: int = 20,
    outer_opt: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    devices: Sequence[parallel.Device] | None = None,
    on_step: Callable[[dict[str, Any]], bool | None] | None = None,
) -> Distilled:
    r"""The student after `num_steps` meta-steps towards proposing what the teacher does, and what is lost by taking it instead.

    ```python
    teacher = optax.adam(optax.cosine_decay_schedule(1e-2, 200))
    result = l2o.distill(l2o.LSTM.paper(key=key), teacher, l2o.tasks.mlp.family(), horizon=200, key=key)
    print(result.error, result.lost)
    ```

    With $u$ the student's updates and $v$ the teacher's, the error is

    $$\frac1T \sum_t \frac{\lVert u_t - v_t \rVert^2}{\sqrt{\bar s_t\, \bar s}}, \qquad \bar s_t \approx \lVert v_t \rVert^2,
    \quad \bar s = \frac1T \sum_t \lVert v_t \rVert^2,$$

    with $\bar s_t$ a mean over ten steps. So late, small updates count for more than their size, but for less than early, large
    ones. 0 is a copy; a student that never moves has at most 1. The parts of a `Partitioned` student count alike.

    Meta-steps come in stages of equal length: one on the first quarter of the teacher's runs, one on whole ones, and one after
    each of the student's own runs.

    **Arguments:**

    - `student`: any rule with meta-parameters that does not ask for the loss. Coordinatewise ones, and `l2o.Partitioned` ones of
        such parts, learn from samples of coordinates; others from all params, which the task should have few of. If the teacher
        depends on the step, so must the student (`l2o.optimizers.lstm.chrono` helps an LSTM to).
    - `teacher`: any rule, learned or optax's. For a `Partitioned` student also a mapping from the names of its parts to rules.
    - `num_runs`, `num_own_runs`: runs recorded of the teacher, before the first meta-step, and of the student, one by one. One of
        the student's own that is not finite is left out.
    - `num_coordinates`: recorded of each part in each run. Half are drawn from all coordinates, half by leaf: small leaves, such
        as biases, matter as much as large ones. `coordinates_per_step`: how many of these a meta-step sees.
    - `num_tasks`: fresh tasks, on which `error` and `lost` are measured. A final loss is the mean over the last tenth of a run.
    - `outer_opt`: default Adam, from a rate of 0.005 down to a twentieth of it by a cosine, with gradients clipped at norm 1.
    - `batch_size`: runs recorded at once; default all of a device's.
    - `on_step`: called with each row of the history. If it returns True, the meta-steps end there.

    **Raises:** before any meta-step, `FloatingPointError` if the teacher diverges; `ValueError` for bad numbers, a student
    without meta-parameters or one that asks for the loss, a teacher that never moves, names of teachers that are not those of
    the parts, and recordings that would take more than 2 GiB.
    """
    started, key = time.monotonic(), _keys.one(key)
    kind("student", student, AbstractLearnedOptimizer, "a learned optimizer, such as `l2o.LSTM.paper(key=key)`")
    student = bare(student)
    check_trainable(student)
    if student.uses_value:
        raise ValueError(
            f"A student sees recorded gradients alone, but {type(student).__name__} asks for the loss. Distill the rule "
            "inside of it, and wrap the result."
        )
    teacher = _one_teacher(teacher, student)
    counts(horizon=horizon, num_steps=num_steps, num_runs=num_runs, num_coordinates=num_coordinates)
    counts(coordinates_per_step=coordinates_per_step, num_tasks=num_tasks, batch_size=batch_size)
    count("num_own_runs", num_own_runs, at_least=0)
    check_family(family, _keys.of_check(key))
    record_key, own_key, fit_key, fresh_key = jax.random.split(key, 4)
    parts = parts_of(student, example_params(family, key), num_coordinates)
    check_memory(parts, horizon, num_runs + num_own_runs + num_tasks)
    record = Recorder(teacher, family, parts, horizon, batch_size, devices)
    run_keys = jax.random.split(record_key, num_runs), jax.random.split(fresh_key, num_tasks)
    lessons, exam = _of_the_teacher(record(None, jnp.concatenate(run_keys))).split(num_runs)
    outer_opt = _default_outer_opt(num_steps) if outer_opt is None else outer_opt
    fit = _Fit(student, parts, lessons, num_runs + num_own_runs, outer_opt, coordinates_per_step, fit_key)
    bounds = np.linspace(0, num_steps, 3 + num_own_runs).round().astype(int)
    for i, num in enumerate(np.diff(bounds)):
        if i >= 2:
            fit.add(record(fit.student, _keys.of_item(own_key, i)[None]))
        length = horizon if i else -(-horizon // 4)
        if any(fit.step(length, on_step) for _ in range(num)):
            break
    found = errors(fit.student, parts, exam)
    curves = loss_curves(
        fit.student,
        family,
        horizon=horizon,
        num_tasks=num_tasks,
        key=fresh_key,
        batch_size=batch_size,
        devices=devices,
    )
    ours, theirs = (_final(losses) for losses in (curves, exam.losses))
    return Distilled(
        optimizer=fit.student,
        error=float(np.mean(found)),
        lost=IntervalEstimate(*ratio_interval(np.where(np.isnan(ours), np.inf, ours), theirs)),
        num_diverged=int((~np.isfinite(ours)).sum()),
        num_steps=len(fit.history),
        num_skipped=fit.num_skipped,
        num_runs=fit.num_runs,
        num_inner_steps=fit.num_runs * horizon,
        seconds=time.monotonic() - started,
        history=fit.history,
    )


def _one_teacher(teacher, student) -> AbstractLearnedOptimizer:
    """The teacher of all params, as one rule."""
    if isinstance(teacher, Mapping):
        names = sorted(student.parts) if isinstance(student, Partitioned) else None
        if names is None or sorted(teacher) != names:
            told = "has no parts" if names is None else f"has the parts {', '.join(names)}"
            raise ValueError(
                f"`teacher` names a rule for each of {', '.join(map(str, teacher))}, but the student, a "
                f"{type(student).__name__}, {told}. Pass one rule, or one for each part of an `l2o.Partitioned`."
            )
        rules = {name: check_optimizer(f"teacher[{name!r}]", rule) for name, rule in teacher.items()}
        teacher = optax.partition({name: _optax(rule) for name, rule in rules.items()}, student.labels)
    check_optimizer("teacher", teacher)
    return teacher if isinstance(teacher, AbstractLearnedOptimizer) else chain(teacher)


def _optax(rule):
    return rule.as_optax() if isinstance(rule, AbstractLearnedOptimizer) else rule


def _of_the_teacher(lessons: Lessons) -> Lessons:
    """The runs, if the teacher is one to learn from."""
    fine = lessons.finite()
    if not fine.all():
        raise FloatingPointError(
            f"The teacher diverges: {int((~fine).sum())} of {len(fine)} of its runs have losses, gradients or updates that are "
            "not finite. Take a smaller rate, a shorter `horizon`, or another teacher."
        )
    for i, lesson in enumerate(lessons.parts):
        if not np.any(lesson.wanted):
            raise ValueError(
                f"The teacher moves none of the recorded coordinates (of part {i + 1} of {len(lessons.parts)}): there is nothing "
                "to imitate."
            )
    return lessons


def _default_outer_opt(num_steps):
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(5e-3, num_steps, 0.05)))


def _final(losses):
    """Each run's mean loss over its last tenth, as in meta-validation."""
    return losses[:, -max(1, (losses.shape[1] - 1) // 10) :].mean(axis=1, dtype=np.float64)


class _Fit:
    """The student as it learns, and the runs that it learns from."""

    def __init__(self, student, parts, lessons, most_runs, outer_opt, num_together, key):
        # Without the weak types of arrays made of Python's numbers, which an update takes away: another program.
        self.student = jax.tree.map(lambda x: x.astype(x.dtype) if eqx.is_inexact_array(x) else x, student)
        self.parts, self.num_together, self.key = parts, num_together, key
        self.num_runs, self.num_skipped, self.history = len(lessons.losses), 0, []
        # Room for the student's own runs, so that one program does for all of them.
        self.recorded = [
            tuple(np.pad(x, [(0, most_runs - len(x))] + [(0, 0)] * (x.ndim - 1)) for x in lesson.weighted())
            for lesson in lessons.parts
        ]
        self.lessons = jax.tree.map(jnp.array, self.recorded)
        self.state = outer_opt.init(eqx.filter(self.student, eqx.is_inexact_array))
        self.outer_opt, self.program = outer_opt, parallel.jit_for_now(_step)

    def add(self, lessons: Lessons):
        """Adds a run of the student's own, if it is finite."""
        if not lessons.finite().all():
            return
        for known, lesson in zip(self.recorded, lessons.parts, strict=True):
            for x, new in zip(known, lesson.weighted(), strict=True):
                x[self.num_runs] = new[0]
        self.lessons = jax.tree.map(jnp.array, self.recorded)  # copies: what is written to next time may be in use
        self.num_runs += 1

    def step(self, length, on_step) -> bool:
        """One meta-step on the first `length` steps of runs; whether it is to be the last."""
        key = _keys.of_item(self.key, len(self.history))
        arguments = (self.student, self.state, self.lessons, jnp.asarray(self.num_runs), jnp.asarray(length), key)
        settings = (self.outer_opt, tuple(part._replace(places=()) for part in self.parts), self.num_together)
        self.student, self.state, error, taken = self.program(*arguments, *settings)
        self.num_skipped += not bool(taken)
        self.history.append({"step": len(self.history) + 1, "length": length, "error": float(error)})
        return on_step is not None and on_step(self.history[-1]) is True


def _step(student, state, lessons, num_runs, length, key, outer_opt, parts, num_together):
    def error(student):
        keys = jax.random.split(key, len(parts))
        found = [
            _error(p, student, x, num_runs, length, k, num_together)
            for p, x, k in zip(parts, lessons, keys, strict=True)
        ]
        return sum(found) / len(found)

    value, gradient = eqx.filter_value_and_grad(error)(student)
    updates, new_state = outer_opt.update(gradient, state, eqx.filter(student, eqx.is_inexact_array))
    new = eqx.apply_updates(student, updates)
    taken = all_finite(gradient)
    keep = lambda a, b: jnp.where(taken, a, b) if eqx.is_array(a) else a
    return jax.tree.map(keep, new, student), jax.tree.map(keep, new_state, state), value, taken


def _error(part, student, lesson, num_runs, length, key, num_together):
    """The error on what is drawn of the lesson: coordinates of eight runs, or all those of one."""
    run_key, place_key = jax.random.split(key)
    if part.like is None:
        num = -(-num_together // _NUM_DRAWN)
        runs = jnp.repeat(jax.random.randint(run_key, (_NUM_DRAWN,), 0, num_runs), num)
        places = jax.random.randint(place_key, runs.shape, 0, part.num)
    else:
        runs, places = jnp.repeat(jax.random.randint(run_key, (), 0, num_runs), part.num), jnp.arange(part.num)
    *met, weight = lesson
    gradients, params, wanted = (x[runs, :, places].T for x in met)
    apart = replayed(part.rule(student), gradients, params, part.like) - wanted
    # `length` is no shape, so that one program does for all stages.
    seen = (jnp.arange(len(apart)) < length)[:, None]
    return jnp.sum(jnp.where(seen, apart, 0) ** 2 * weight[runs].T) / (length * runs.size)
