"""The last stage of a design: a network learns to do what the best rule does, and is meta-trained from there."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from msgspec import Meta

from l2o.core import parallel
from l2o.core.coordinates import join
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily
from l2o.evaluation.design.journal import Journal
from l2o.meta.checkpoint import holds_run
from l2o.meta.distill import distill
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.lessons import Recorder, example_params, parts_of
from l2o.meta.problems import InnerTraining
from l2o.meta.step import default_outer_optimizer
from l2o.meta.train import meta_train
from l2o.meta.validation import Validation
from l2o.optimizers import lstm
from l2o.optimizers.wrappers.preconditioned import Preconditioned

_RECORDED = 4  # runs of the teacher that say how large its updates are
_COORDINATES = 512  # of each part
_MEASURED = 5  # meta-steps after which it is known how many there is time for
_MOST = 100_000  # meta-steps
_LEAST_TRUNCATION, _TRUNCATION = 20, 100  # steps that are gone back; all of them where the horizon has no such divisor
_LATE = 0.1  # share of the horizon, its end, where losses count ten times as much
_RATE, _AVERAGE = 1e-3, 0.98
_Steps = Annotated[int, Meta(ge=1, le=_MOST)]


def student(
    teacher: AbstractLearnedOptimizer,
    family: TaskFamily,
    *,
    horizon: int,
    key: PRNGKeyArray,
    devices: Sequence[parallel.Device] | None = None,
) -> AbstractLearnedOptimizer:
    """An LSTM, or one for each part of the teacher, made to copy it: its updates can be as large, its memory lasts a run.

    Its inputs tell gradients apart that are as small as the smallest twentieth of those in runs of the teacher. A teacher's
    factors for each coordinate (`l2o.Preconditioned`) are the student's too.
    """
    rules = teacher.group_rules()
    build_key, run_key, *gate_keys = jax.random.split(key, 2 + len(rules or [""]))
    made: dict[str, Any] = dict.fromkeys(rules or [""], lstm.build(build_key))
    outer = teacher if isinstance(teacher, Preconditioned) else None
    factors = 1.0 if outer is None else np.exp(np.asarray(join(outer.log_factors)))

    def whole():
        if outer is not None:
            return outer.around(made[""])
        return made[""] if rules is None else teacher.with_groups(made)

    parts = parts_of(whole(), example_params(family, run_key), _COORDINATES)
    lessons = Recorder(teacher, family, parts, horizon, None, devices)(None, jax.random.split(run_key, _RECORDED))
    for part, lesson, gate_key in zip(parts, lessons.parts, gate_keys, strict=True):
        size = 2 * float(np.quantile(np.abs(lesson.wanted / factors), 0.99))
        met = np.abs(lesson.gradients[lesson.gradients != 0])
        smallest = float(np.quantile(met, 0.05)) if met.size else 1.0
        if not (np.isfinite(size) and size > 0 and np.isfinite(smallest)):
            raise FloatingPointError("The teacher diverges, or it never moves.")
        rule = lstm.build(build_key, preprocessing=float(np.clip(-np.log(smallest), 5, 40)), output_scale=size)
        made[part.name or ""] = lstm.chrono(rule, max(3, horizon), key=gate_key)
    return whole()


def network(
    teacher: AbstractLearnedOptimizer,
    family: TaskFamily,
    journal: Journal,
    *,
    horizon: int,
    key: PRNGKeyArray,
    seconds: float,
    num_tasks: int,
    batch_size: int,
    validation: Validation,
    on_step: Callable[[int, int], None],
    devices: Sequence[parallel.Device] | None = None,
) -> AbstractLearnedOptimizer:
    """A network that imitates the teacher, meta-trained by truncated BPTT for as many meta-steps as take `seconds` in all.

    How many these are is found out by the first ones, and written down: so a run that was killed takes as many. The imitation is
    a candidate of the validation too.

    **Raises:** `FloatingPointError` if the teacher diverges.
    """
    begun, first = time.monotonic(), 0.0
    student_key, copy_key, train_key = jax.random.split(key, 3)

    def imitated():
        made = student(teacher, family, horizon=horizon, key=student_key, devices=devices)
        options = {"num_runs": _RECORDED, "num_coordinates": _COORDINATES, "devices": devices}
        return distill(made, teacher, family, horizon=horizon, key=copy_key, **options).optimizer

    def enough(row):
        nonlocal first
        step, now = row["step"], time.monotonic()
        if step == 1:
            first = now  # it is compiled by then
        if step < _MEASURED:
            return False
        affordable = lambda: step + int((begun + seconds - now) * (step - 1) / max(1e-6, now - first))
        most = journal.value("meta-steps", _Steps, lambda: min(_MOST, max(step, affordable())))
        on_step(step, most)
        return step >= most

    def trained(start):
        place = journal.place("network")
        return meta_train(
            start,
            BPTT(problem, num_tasks=num_tasks, batch_size=batch_size),
            default_outer_optimizer(_RATE, max_norm=0.1),
            num_steps=journal.known("meta-steps", _Steps) or _MOST,
            key=train_key,
            validation=validation,
            average=_AVERAGE,
            folder=place,
            resume=place is not None and holds_run(place),
            on_step=enough,
            devices=devices,
        ).optimizer

    divisors = [k for k in range(_LEAST_TRUNCATION, _TRUNCATION + 1) if horizon % k == 0]
    truncation = max(divisors, default=horizon)
    late = np.where(np.arange(horizon) < horizon - max(1, round(_LATE * horizon)), 0.1, 1.0)
    problem = InnerTraining(family, horizon, truncation, step_weights=jnp.asarray(late / late.mean(), jnp.float32))
    copy = journal.optimizer("imitation", imitated)
    return journal.optimizer("network", lambda: trained(copy))
