"""The outer loop: meta-training with early stopping on validation tasks, checkpoints and resuming."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PRNGKeyArray

from l2o.core import keys, parallel
from l2o.core.checks import count, counts, flags, kind, positive, real
from l2o.core.curves import loss_curves
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer
from l2o.core.task import TaskFamily, check_callable, check_family
from l2o.io import event_files
from l2o.io.files import holding_its_folder
from l2o.meta.checkpoint import Checkpoints
from l2o.meta.estimators import AbstractGradientEstimator
from l2o.meta.problems import InnerTraining
from l2o.optimizers.wrappers.beyond import bare


@dataclasses.dataclass(frozen=True)
class Validation:
    """Meta-validation: every `every` meta-steps, the same `num_tasks` tasks are solved for `horizon` steps.

    The score is the mean loss over the last `final_steps` steps (default a tenth of the horizon), the paper's "final
    validation loss"; the optimizer with the best one is kept (Andrychowicz et al. 2016, section 3). A score that is not
    finite is never the best.

    **Raises:** `ValueError` for numbers that are not positive and whole, or more final steps than there are.
    """

    family: TaskFamily
    horizon: int
    num_tasks: int = 16
    every: int = 100
    final_steps: int | None = None
    batch_size: int | None = None

    def __post_init__(self):
        check_callable(self.family)
        counts(
            horizon=self.horizon,
            num_tasks=self.num_tasks,
            every=self.every,
            final_steps=self.final_steps,
            batch_size=self.batch_size,
        )
        if self.final_steps is not None and self.final_steps > self.horizon + 1:
            raise ValueError(
                f"`final_steps` must be at most the number of losses, `horizon` + 1, got final_steps={self.final_steps} and "
                f"horizon={self.horizon}."
            )

    def score(
        self, optimizer: AbstractLearnedOptimizer, key: PRNGKeyArray, devices: Sequence[parallel.Device] | None = None
    ) -> float:
        """Mean final loss on the validation tasks of `key`."""
        curves = loss_curves(
            optimizer,
            self.family,
            horizon=self.horizon,
            num_tasks=self.num_tasks,
            key=key,
            batch_size=self.batch_size,
            devices=devices,
        )
        return float(np.mean(curves[:, -(self.final_steps or max(1, self.horizon // 10)) :]))


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


def default_outer_optimizer(
    learning_rate: optax.ScalarOrSchedule = 1e-3, max_norm: float = 0.1
) -> optax.GradientTransformation:
    """Adam behind a clip of the meta-gradient's global norm: the mean over tasks is clipped, not each task's.

    **Raises:** `ValueError` for a `max_norm` that is not positive (infinite: no clip), or a rate that is not positive and finite.
    """
    positive("max_norm", max_norm, finite=False)
    if not callable(learning_rate):
        positive("learning_rate", learning_rate)
    return optax.chain(optax.clip_by_global_norm(max_norm), optax.adam(learning_rate))


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
    on_step: Callable[[dict[str, Any]], None] | None = None,
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
    - `on_step`: called with each row of the history, for a progress bar.

    **Raises:** before anything is run, `ValueError` for bad arguments or tasks (see `check_family`), if there is nothing to
    train, as of an optax transformation, which hides in closures what it is made of (`l2o.chain` does not), or if another
    optimizer, estimator, family, outer optimizer, key, ... than before is to be resumed (it says which); `FileExistsError` if
    `folder` holds a run and `resume` is not set, `BlockingIOError` if a run in it goes on; `OSError` where the disk fills up.
    """
    outer_opt = default_outer_optimizer() if outer_opt is None else outer_opt
    kind("outer_opt", outer_opt, optax.GradientTransformation, "an optax transformation, such as `optax.adam(1e-3)`")
    kind("validation", validation, Validation | None, "an `l2o.Validation`, or None")
    key = keys.one(key)
    optimizer = bare(optimizer)
    _check_trainable(optimizer)
    if not isinstance(estimator, AbstractGradientEstimator):
        raise ValueError(
            f"`estimator` must be a gradient estimator, such as `BPTT(problem, num_tasks=64)`, got {estimator!r}."
        )
    count("num_steps", num_steps)
    count("checkpoint_every", checkpoint_every)
    if not 0 <= real("average", average) < 1:
        raise ValueError(f"`average` must be at least 0 and below 1, got {average}.")
    if not 0 <= real("max_diverged", max_diverged) <= 1:
        raise ValueError(f"`max_diverged` is a share of the tasks, from 0 to 1, got {max_diverged}.")
    if max_seconds is not None:
        positive("max_seconds", max_seconds, finite=False)
    for part in estimator.parts:
        if isinstance(part.problem, InnerTraining):
            check_family(part.problem.family, keys.of_check(key))
    flags(resume=resume)
    devices = parallel.share(estimator.num_tasks if estimator.jitted else 1, devices)
    init, estimate = (_init_jitted, _estimate_jitted) if estimator.jitted else (_init, _estimate)
    checkpoints = (
        None
        if folder is None
        else Checkpoints(
            Path(folder),
            resume=resume,
            settings={
                "optimizer": optimizer,
                "estimator": estimator,
                "outer_opt": outer_opt,
                "key": key,
                "validation": validation,
                "average": float(average),
                "max_diverged": float(max_diverged),
                "number of devices": len(devices),
                "precision": jax.numpy.finfo(jax.numpy.zeros(()).dtype).bits,  # that JAX computes in
            },
        )
    )
    writer = None
    train_key, init_key, validation_key = jax.random.split(key, 3)

    parts = [parallel.put(estimator.share(len(devices)), device) for device in devices]
    arrays, static = eqx.partition(optimizer, eqx.is_inexact_array)
    arrays = jax.device_put(arrays, devices[0])
    init_keys = jax.random.split(init_key, len(devices))
    run = {
        "arrays": arrays,
        "average": arrays,
        "outer_state": outer_opt.init(arrays),
        "episodes": [
            init(part, *parallel.put((optimizer, k), device))
            for part, k, device in zip(parts, init_keys, devices, strict=True)
        ],
        "best": arrays,
        "best_score": np.asarray(np.inf),
        "step": np.asarray(0),
        "num_skipped": np.asarray(0),
        "num_diverged": np.asarray(0),
        "seconds": np.asarray(0.0),
    }
    history: list[dict[str, Any]] = []
    if checkpoints is not None:
        if resume:
            run, history = checkpoints.restore(run)
        writer = checkpoints.events(int(run["step"]))
    num_tasks = [sum(e.num_tasks for e in part.parts) for part in parts]  # of every device
    started, seconds_before = time.monotonic(), float(run["seconds"])

    def validate():
        assert validation is not None
        score = validation.score(eqx.combine(run["average"], static), validation_key, devices)
        if score < run["best_score"]:  # false for NaN
            run["best"], run["best_score"] = run["average"], np.asarray(score)
        return score

    def save():
        run["seconds"] = np.asarray(seconds_before + time.monotonic() - started)
        if checkpoints is not None:
            checkpoints.save(run, history)

    step = int(run["step"])
    if validation is not None and step == 0:
        validate()  # the start is a candidate too: training may only make it worse
    whole = dict(run)  # as of the last whole step: what an interrupt in the middle of one falls back to
    try:
        while step < num_steps and (max_seconds is None or time.monotonic() - started < max_seconds):
            step_keys = jax.random.split(keys.of_step(train_key, step), len(devices))
            current = eqx.combine(run["arrays"], static)
            results = parallel.run_on_each(
                estimate,
                [
                    (part, *parallel.put((current, episodes, k), device))
                    for part, episodes, k, device in zip(parts, run["episodes"], step_keys, devices, strict=True)
                ],
            )
            found = [estimate for estimate, _ in results]
            num_lost = sum(int(e.num_diverged) for e in found)
            # Devices count as much as they have tasks left, and those without any not at all.
            left = np.array([max(0, n - int(e.num_diverged)) for n, e in zip(num_tasks, found, strict=True)])
            kept = [i for i in range(len(found)) if left[i] or not left.any()]
            weights = left[kept] / left.max() if left.any() else np.ones(len(kept))
            gradients = [jax.device_put(found[i].gradient, devices[0]) for i in kept]
            stepped, norm = _outer_step(
                outer_opt, run["arrays"], run["average"], run["outer_state"], gradients, weights, average
            )
            share = num_lost / sum(num_tasks)
            finite = bool(np.isfinite(norm)) and left.any() and share <= max_diverged
            if finite:
                run["arrays"], run["average"], run["outer_state"] = stepped
            run["episodes"] = [episodes for _, episodes in results]
            run["num_skipped"] = run["num_skipped"] + (not finite)
            run["num_diverged"] = run["num_diverged"] + num_lost
            step += 1
            run["step"] = np.asarray(step)
            row = {
                "step": step,
                "meta_loss": float(np.average([float(found[i].meta_loss) for i in kept], weights=weights)),
                "gradient_norm": float(norm),
                "num_skipped": int(run["num_skipped"]),
                "num_diverged": int(run["num_diverged"]),
                "share_diverged": share,  # in this meta-step
            }
            if validation is not None and (step % validation.every == 0 or step == num_steps):
                row["validation_loss"] = validate()
            history.append(row)
            whole = dict(run)
            if writer is not None:
                named = {f"meta_training/{name}": value for name, value in row.items() if name != "step"}
                writer.add(event_files.scalar(name, value, step) for name, value in named.items())
            if on_step is not None:
                on_step(row)
            if step % checkpoint_every == 0:
                save()
        # Stopped by the clock between two validations: what was learned since the last one counts too.
        if validation is not None and history and "validation_loss" not in history[-1]:
            history[-1]["validation_loss"] = validate()
        save()
    except KeyboardInterrupt as interrupt:
        run.update(whole)
        step = int(run["step"])
        history[:] = [row for row in history if row["step"] <= step]
        save()
        if folder is not None:
            interrupt.add_note(f"Saved at meta-step {step} in {folder}; go on with resume=True (`--resume`).")
        raise

    last = eqx.combine(run["average"], static)
    has_best = bool(np.isfinite(run["best_score"]))
    num_inner_steps, num_episodes = map(sum, zip(*(_amounts(part, step) for part in estimator.parts), strict=True))
    return MetaTrained(
        optimizer=eqx.combine(run["best"], static) if has_best else last,
        last=last,
        best_score=float(run["best_score"]) if has_best else None,
        num_steps=step,
        num_skipped=int(run["num_skipped"]),
        num_diverged=int(run["num_diverged"]),
        share_diverged=int(run["num_diverged"]) / (max(step, 1) * sum(num_tasks)),
        num_episodes=num_episodes,
        num_inner_steps=num_inner_steps,
        seconds=float(run["seconds"]),
        history=history,
    )


def _check_trainable(optimizer: Any) -> None:
    """Refuses what has no meta-parameters, before a run that would change nothing."""
    if any(leaf.size for leaf in jax.tree.leaves(eqx.filter(optimizer, eqx.is_inexact_array))):
        return
    if isinstance(optimizer, optax.GradientTransformation):
        raise ValueError(
            "There is nothing to train: an optax transformation hides what it is made of in functions, learned rules as well. "
            "Chain a learned rule with optax's by `l2o.chain(optax.clip(1.0), rule)`, whose meta-parameters are the rule's."
        )
    raise ValueError(
        f"There is nothing to train: {type(optimizer).__name__} has no floating JAX arrays among its leaves, which are what is "
        "trained. Fields that are static, Python numbers, NumPy arrays, and learned rules inside of optax transformations "
        "(`optax.chain`; use `l2o.chain`) are not."
    )


def _amounts(estimator, num_steps):
    """Inner steps, and episodes' worth of them, in so many calls. Nobody knows how many steps a loop without a problem took."""
    num_runs, problem = float(num_steps * estimator.num_particles), estimator.problem
    if problem is None:
        return float("nan"), num_runs  # whole episodes at every call
    truncation = getattr(problem, "truncation", float("nan"))
    return num_runs * truncation, num_runs * truncation / getattr(problem, "horizon", truncation)


def _init(estimator, optimizer, key):
    return estimator.init(optimizer, key)


def _estimate(estimator, optimizer, episodes, key):
    return estimator.estimate(optimizer, episodes, key)


_init_jitted, _estimate_jitted = eqx.filter_jit(_init), eqx.filter_jit(_estimate)


@eqx.filter_jit
def _outer_step(outer_opt, arrays, averaged, outer_state, gradients, weights, average):
    """One outer update with the weighted mean of the devices' meta-gradients."""

    def mean_of(*parts):
        weighted = [w.astype(g.dtype) * g for w, g in zip(weights, parts, strict=True)]
        return (sum(weighted[1:], start=weighted[0]) / jnp.sum(weights)).astype(parts[0].dtype)

    mean = jax.tree.map(mean_of, *gradients)
    updates, outer_state = outer_opt.update(mean, outer_state, arrays)
    arrays = eqx.apply_updates(arrays, updates)
    return (arrays, optax.incremental_update(arrays, averaged, 1 - average), outer_state), optax.tree.norm(mean)
