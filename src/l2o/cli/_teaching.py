"""Where `l2o train` starts: a rule that has learned to propose what a teacher does."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import l2o
from l2o.cli import _common
from l2o.cli._common import console
from l2o.core import keys
from l2o.core.curves import loss_curves
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, check_family
from l2o.evaluation.design import tuned
from l2o.evaluation.design.look import Look, look
from l2o.evaluation.design.plan import COARSE, FINE, Tuning
from l2o.meta.lessons import Recorder, example_params, parts_of
from l2o.optimizers import lstm

TUNED, NONE = "tuned", "none"
CANDIDATES = ("adam", "nag")  # for the teacher that is tuned
_OPERATIONS = 2e10  # that tuning a candidate may take, where two tasks for the coarsest grid do not take more
_MOST_TASKS = 8  # that a grid is judged on
_RATE = 1e-2  # of imitation
_NUM_BALANCED, _LEAST = 8, 1e-4  # tasks for the weights of steps, and the least loss that they know, of the largest
_NUM_LOOKED_AT = 1024  # coordinates whose updates are
_NUM_FRESH = 20  # tasks on which student and teacher are compared


class Asked(NamedTuple):
    """What decides where a run starts, beside the problem and the seed."""

    teacher: str  # "tuned", a baseline, or weights
    steps: int  # meta-steps of imitation
    optimizer: str
    arguments: dict[str, Any]  # of the optimizer
    init: str | None = None  # weights that the student starts from; None: it is fresh


class Start(NamedTuple):
    """Where meta-training begins."""

    optimizer: AbstractLearnedOptimizer
    step_weights: jax.Array | None  # as `balance` has it


def started(
    student: AbstractLearnedOptimizer,
    asked: Asked,
    family: TaskFamily,
    horizon: int,
    path: Path,
    *,
    key: jax.Array,
    resume: bool,
) -> Start:
    """The student after it was taught, and the weights of steps, kept at `path`; from there where the run is resumed.

    **Raises:** `ValueError` if the student cannot imitate the teacher, there is no such teacher, or something else was asked for
    when the run that is resumed began; `FileNotFoundError` if there is nothing at `path` to resume.
    """
    told = json.loads(json.dumps(asked._asdict()))
    if resume:
        return _kept(path, student, told)
    path.unlink(missing_ok=True)  # of a run that was killed before it began to meta-train
    check_family(family, keys.of_check(key))
    tune_key, able_key, fit_key, balance_key = jax.random.split(key, 4)
    rule, what = find(asked.teacher, family, horizon, key=tune_key)
    console.print(f"Teacher: {what}", soft_wrap=True)
    try:
        if asked.init is None:
            student = able(student, rule, family, horizon, fixed=asked.arguments, key=able_key)
        with _common.bar(asked.steps, "imitation") as tick:
            found = l2o.distill(
                student,
                rule,
                family,
                horizon=horizon,
                num_steps=asked.steps,
                num_tasks=_NUM_FRESH,
                outer_opt=optax.chain(
                    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(_RATE, asked.steps, 0.05))
                ),
                key=fit_key,
                on_step=lambda row: tick(f"error {row['error']:.2g}"),
            )
    except (ValueError, FloatingPointError) as error:
        raise ValueError(
            f"{type(student).__name__} cannot imitate {what}: {error} Pass `--teacher none` to start from random numbers, or "
            "another teacher."
        ) from error
    console.print(_lost(found), soft_wrap=True)
    weights = balance(found.optimizer, family, horizon, key=balance_key)
    recipe = {**told, "horizon": horizon, "what": what, "error": found.error, "seconds": round(found.seconds)}
    l2o.pretrained.save(path, found.optimizer, recipe={**recipe, "step_weights": weights})
    return Start(found.optimizer, weights)


def _kept(path, student, asked):
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}, which a run with a teacher starts from. If the run had none, pass `--teacher none`. If it was "
            "stopped before the imitation was over, leave `--resume` out."
        )
    began = l2o.pretrained.header(path)["recipe"]
    for name, value in asked.items():
        if began.get(name) != value:
            raise ValueError(
                f"The run that is to be resumed began with {name} {began.get(name)!r}, says {path}, but {value!r} was asked for. "
                "Ask for the same, or choose another folder."
            )
    fitted = isinstance(student, lstm.LSTM | lstm.GlobalLSTM)  # has another output scale than the fresh one
    weights = began.get("step_weights")
    optimizer = l2o.load(path, like=None if fitted else student, beyond=None)
    return Start(optimizer, None if weights is None else jnp.asarray(weights, jnp.float32))


def balance(
    optimizer: AbstractLearnedOptimizer, family: TaskFamily, horizon: int, *, key: jax.Array
) -> jax.Array | None:
    r"""Weights of steps in the meta-loss, $w_t \propto 1 / \bar\ell_t$ with $\bar\ell$ the mean losses of `optimizer`; of mean 1.

    So late steps, where losses are small, count as much as early ones. Without, meta-training trades the last loss for the first
    ones. None if there is no such ratio, as a mean loss is not positive and finite.
    """
    curves = loss_curves(optimizer, family, horizon=horizon, num_tasks=_NUM_BALANCED, key=key)
    means = curves[:, :horizon].mean(axis=0, dtype=np.float64)
    if not np.isfinite(means).all() or means.min() <= 0:
        return None
    weights = 1 / np.maximum(means, _LEAST * means.max())
    return jnp.asarray(weights / weights.mean(), jnp.float32)


def _lost(found: l2o.Distilled) -> str:
    """What is lost by taking the student in the place of its teacher, in a line."""
    ratio, low, high = found.lost
    if found.num_diverged:
        what = f"it diverges on {found.num_diverged} of {_NUM_FRESH} fresh tasks"
    elif ratio == ratio:  # not NaN
        what = f"its last loss is {ratio:.3g} times ({low:.3g} to {high:.3g}) the teacher's on {_NUM_FRESH} fresh tasks"
    else:
        what = "its loss and the teacher's have no ratio"
    return f"Imitated in {found.seconds:.0f} s: {what}. Relative squared error of its updates: {found.error:.2g}."


def find(teacher: str, family: TaskFamily, horizon: int, *, key: jax.Array) -> tuple[Any, str]:
    """The teacher of that name, and what it is: "tuned", a baseline, or weights.

    **Raises:** `ValueError` if there is none, or it has no rate to tune.
    """
    if teacher != TUNED and teacher not in l2o.baselines.BASELINES:
        return l2o.load(teacher, beyond=None), teacher
    names = CANDIDATES if teacher == TUNED else (teacher,)
    if not l2o.baselines.get(names[0]).tuned:
        raise ValueError(
            f"A teacher proposes updates from gradients, and {teacher} has no rate to tune for that. Take adam or nag, or leave "
            "`--teacher` out for the better of the two."
        )
    look_key, tune_key = jax.random.split(key)
    seen = look(family, look_key)
    tuning, num_tasks = effort(seen, horizon)
    found = {}
    for name in names:
        with console.status(f"Tuning {name}, to be imitated ..."):
            found[name] = tuned.as_rule(
                name,
                horizon,
                tuned.tune_baseline(
                    name,
                    family,
                    jax.random.split(tune_key, num_tasks),
                    tuning,
                    horizon=horizon,
                    num_evals=seen.num_evals,
                    batch_size=seen.batch_size(tuned.CHUNK),
                ),
            )
    best = found[min(found, key=lambda name: found[name].loss)].rule
    return best, f"{best} (tuned in {sum(t.num_trials for t in found.values())} trials of {' and '.join(names)})"


def effort(seen: Look, horizon: int) -> tuple[Tuning, int]:
    """How to tune a candidate, and on how many tasks: the same on any machine, so that a seed says what comes out."""

    def affordable(tuning):
        return int(_OPERATIONS / max(1.0, seen.operations * horizon * tuning.runs))

    tuning = FINE if affordable(FINE) >= 2 else COARSE
    return tuning, tuning.more * min(_MOST_TASKS, max(2, affordable(tuning)))


def able(
    student: AbstractLearnedOptimizer,
    rule: Any,
    family: TaskFamily,
    horizon: int,
    *,
    fixed: Collection[str] = (),
    key: jax.Array,
) -> AbstractLearnedOptimizer:
    """An LSTM that can do what the teacher, `rule`, does; any other student as it is.

    Its gates start open for up to the horizon, so that it can tell how late it is: most teachers depend on the step. Its output
    scale is twice as large as 99 % of the teacher's updates, unless "output_scale" or "preset" is among the `fixed` arguments.
    """
    if not isinstance(student, lstm.LSTM | lstm.GlobalLSTM) or horizon <= 2:
        return student
    student_key, gates_key, run_key = jax.random.split(key, 3)
    arguments = student.to_spec()["arguments"]
    if not {"preset", "output_scale"} & set(fixed):
        parts = parts_of(student, example_params(family, key), _NUM_LOOKED_AT)
        runs = Recorder(rule, family, parts, horizon, None, None)
        sizes = np.abs(np.concatenate([part.wanted.ravel() for part in runs(None, jax.random.split(run_key, 2)).parts]))
        scale = 2 * float(np.quantile(sizes[np.isfinite(sizes)], 0.99)) if np.isfinite(sizes).any() else 0.0
        arguments |= {"output_scale": float(f"{scale:.2g}")} if scale > 0 else {}
    return lstm.chrono(lstm.build(student_key, **arguments), horizon, key=gates_key)
