"""The outer loop: meta-steps with early stopping on validation tasks, checkpoints and resuming."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import equinox as eqx
import jax
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from l2o.core import keys, parallel
from l2o.core.checks import count, flags, kind, positive
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer
from l2o.core.task import check_family
from l2o.io import event_files
from l2o.io.files import holding_its_folder
from l2o.meta.checkpoint import Checkpoints
from l2o.meta.estimators import AbstractGradientEstimator
from l2o.meta.problems import InnerTraining
from l2o.meta.step import MetaTraining, check_trainable
from l2o.meta.validation import Validation
from l2o.optimizers.wrappers.beyond import bare

# Is called with a row of the history, to log it, say. If it returns True, the run ends there.
Callback: TypeAlias = Callable[[dict[str, Any]], bool | None]


@dataclasses.dataclass
class MetaTrained:
    """Result of `meta_train`."""

    optimizer: AbstractLearnedOptimizer  # the best by validation, or the last without one
    last: AbstractLearnedOptimizer  # as of the last meta-step (its average, where one was asked for)
    best_score: float | None  # of `optimizer` on the validation tasks
    num_steps: int  # meta-steps done, skipped ones included
    num_skipped: int  # meta-steps without an update: nothing was finite, or more than `max_diverged` diverged
    num_diverged: (
        int  # episodes whose meta-loss or meta-gradient was not finite: left out of the mean, and started afresh
    )
    share_diverged: float  # of all truncations (whole runs of a `RecordedLoop`), one a task and meta-step
    num_episodes: float  # inner training runs' worth of truncations that meta-training took
    num_inner_steps: float  # in all of them; NaN for loops that JAX knows nothing of (`RecordedLoop`)
    seconds: float  # wall clock, earlier parts of a resumed run included
    history: list[dict[str, Any]]  # a row per meta-step: step, meta_loss, gradient_norm, ... and scores


@holding_its_folder
def meta_train(
    optimizer: Optimizer,
    estimator: AbstractGradientEstimator,
    outer_opt: optax.GradientTransformation | None = None,
    *,
    num_steps: int,
    key: PRNGKeyArray,
    validation: Validation | None = None,
    average: float = 0.0,
    max_diverged: float = 0.5,
    max_seconds: float | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: int = 100,
    devices: Sequence[parallel.Device] | None = None,
    on_step: Callback | Sequence[Callback] | None = None,
) -> MetaTrained:
    r"""Improves $\varphi$ by `num_steps` meta-steps $\varphi \leftarrow \varphi + \mathrm{outer\_opt}(\hat\nabla L(\varphi))$.

    Tasks are divided among `devices` (default: all local ones that divide `estimator.num_tasks`), one program on each,
    and the mean of their meta-gradients is taken on the host. On a CPU call `l2o.use_all_cores()` first.

    Tasks whose meta-loss or meta-gradient is not finite are left out of the mean, and counted. A meta-step is skipped, and
    counted, if more than `max_diverged` of them are, or nothing is left. With a `folder`, metrics (metrics.jsonl), TensorBoard
    events and checkpoints go there; a run that is interrupted or killed goes on from its last checkpoint with `resume=True` and
    gives the same $\varphi$, bit for bit, on the same number of devices.

    **Arguments:**

    - `optimizer`: where to start. What `l2o.beyond`, and so `l2o.load`, put around it for long runs is taken off.
    - `outer_opt`: any optax optimizer; default `default_outer_optimizer()`.
    - `average`: decay $\beta$ of an exponential moving average $\bar\varphi \leftarrow \beta \bar\varphi + (1 - \beta) \varphi$
        of the meta-parameters, over about $1 / (1 - \beta)$ meta-steps (Polyak & Juditsky 1992). The average is what is validated
        and returned; meta-training itself goes on from $\varphi$. Meta-gradients are noisy: it is often far better. 0: none.
    - `max_diverged`: the largest share of tasks that may have diverged in a meta-step that is taken.
    - `max_seconds`: stop early after this much wall clock in this call.
    - `on_step`: one callback or several, called in turn with each row of the history: to log it, to move a progress bar, to
        give up a run that gets nowhere. The run ends where one of them returns True, after the others were called.

    **Raises:** before anything is run, `ValueError` for bad arguments or tasks (see `check_family`), if there is nothing to
    train, as of an optax transformation, which hides in closures what it is made of (`l2o.chain` does not), or if another
    optimizer, estimator, family, outer optimizer, key, ... than before is to be resumed (it says which); `FileExistsError` if
    `folder` holds a run and `resume` is not set, `BlockingIOError` if a run in it goes on; `OSError` where the disk fills up.
    """
    kind("validation", validation, Validation | None, "an `l2o.Validation`, or None")
    key = keys.one(key)
    optimizer = bare(optimizer)
    check_trainable(optimizer)
    training = MetaTraining(estimator, outer_opt, average=average, max_diverged=max_diverged, devices=devices)
    count("num_steps", num_steps)
    count("checkpoint_every", checkpoint_every)
    if max_seconds is not None:
        positive("max_seconds", max_seconds, finite=False)
    for part in estimator.parts:
        if isinstance(part.problem, InnerTraining):
            check_family(part.problem.family, keys.of_check(key))
    flags(resume=resume)
    callbacks = () if on_step is None else tuple(on_step) if isinstance(on_step, Sequence) else (on_step,)
    checkpoints = (
        None
        if folder is None
        else Checkpoints(
            Path(folder),
            resume=resume,
            settings={
                "optimizer": optimizer,
                "estimator": estimator,
                "outer_opt": training.outer_opt,
                "key": key,
                "validation": validation,
                "average": float(average),
                "max_diverged": float(max_diverged),
                "number of devices": len(training.devices),
                "precision": jax.numpy.finfo(jax.numpy.zeros(()).dtype).bits,  # that JAX computes in
            },
        )
    )
    train_key, init_key, validation_key = jax.random.split(key, 3)
    state = training.init(optimizer, train_key, init_key)
    best: dict[str, Any] = {"arrays": state.average, "score": np.asarray(np.inf)}
    history: list[dict[str, Any]] = []
    started, seconds = time.monotonic(), 0.0

    def seconds_now():
        return seconds + time.monotonic() - started

    def saved(state):
        return {"state": eqx.filter(state, eqx.is_array), "best": best, "seconds": np.asarray(seconds_now())}

    writer = None
    if checkpoints is not None:
        if resume:
            run, history = checkpoints.restore(saved(state))
            state, best, seconds = eqx.combine(run["state"], state), run["best"], float(run["seconds"])
        writer = checkpoints.events(len(history))

    def validate(state):
        assert validation is not None
        score = validation.score(state.averaged, validation_key, training.devices)
        if score < best["score"]:  # false for NaN
            best.update(arrays=state.average, score=np.asarray(score))
        return score

    def save(state):
        if checkpoints is not None:
            checkpoints.save(saved(state), history)

    if validation is not None and not history:
        validate(state)  # the start is a candidate too: training may only make it worse
    try:
        stopped = False
        while (
            len(history) < num_steps
            and not stopped
            and (max_seconds is None or time.monotonic() - started < max_seconds)
        ):
            new, metrics = training.step(state)
            row = _row(new, metrics)
            if validation is not None and (row["step"] % validation.every == 0 or row["step"] == num_steps):
                row["validation_loss"] = validate(new)
            state = new  # after what an interrupt may cut short: with its row, or not at all
            history.append(row)
            if writer is not None:
                named = {f"meta_training/{name}": value for name, value in row.items() if name != "step"}
                writer.add(event_files.scalar(name, value, row["step"]) for name, value in named.items())
            stopped = any([callback(row) is True for callback in callbacks])  # all are called
            if row["step"] % checkpoint_every == 0:
                save(state)
        # Stopped between two validations: what was learned since the last one counts too.
        if validation is not None and history and "validation_loss" not in history[-1]:
            history[-1]["validation_loss"] = validate(state)
        save(state)
    except KeyboardInterrupt as interrupt:
        step = min(len(history), int(state.step))
        history[:] = history[:step]
        save(state)
        if folder is not None:
            interrupt.add_note(f"Saved at meta-step {step} in {folder}; go on with resume=True (`--resume`).")
        raise

    has_best = bool(np.isfinite(best["score"]))
    num_steps = len(history)
    num_inner_steps, num_episodes = map(sum, zip(*(_amounts(part, num_steps) for part in estimator.parts), strict=True))
    return MetaTrained(
        optimizer=eqx.combine(best["arrays"], state.optimizer) if has_best else state.averaged,
        last=state.averaged,
        best_score=float(best["score"]) if has_best else None,
        num_steps=num_steps,
        num_skipped=int(state.num_skipped),
        num_diverged=int(state.num_diverged),
        share_diverged=int(state.num_diverged) / (max(num_steps, 1) * training.num_tasks),
        num_episodes=num_episodes,
        num_inner_steps=num_inner_steps,
        seconds=seconds_now(),
        history=history,
    )


def _row(state, metrics):
    """A meta-step as the history has it."""
    return {
        "step": int(state.step),
        "meta_loss": float(metrics["meta_loss"]),
        "gradient_norm": float(metrics["gradient_norm"]),
        "num_skipped": int(state.num_skipped),
        "num_diverged": int(state.num_diverged),
        "share_diverged": float(metrics["share_diverged"]),  # in this meta-step
    }


def _amounts(estimator, num_steps):
    """Inner steps, and episodes' worth of them, in so many calls. Nobody knows how many steps a loop without a problem took."""
    num_runs, problem = float(num_steps * estimator.num_particles), estimator.problem
    if problem is None:
        return float("nan"), num_runs  # whole episodes at every call
    truncation = getattr(problem, "truncation", float("nan"))
    return num_runs * truncation, num_runs * truncation / getattr(problem, "horizon", truncation)
