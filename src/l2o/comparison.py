"""A learned optimizer beside tuned baselines on the same tasks: the table and the figure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from l2o import baselines
from l2o._task import TaskFamily, is_deterministic
from l2o.evaluation import Curves, bootstrap_interval, evaluate, ratio_interval
from l2o.tuning import Tuned, tune


class Contender(NamedTuple):
    """An optimizer's results."""

    curves: Curves
    tuned: Tuned | None = None  # of a baseline: the grid and what was chosen
    learned: bool = False


def compare(
    family: TaskFamily,
    *,
    learned: Mapping[str, Any],
    baseline_names: Iterable[str],
    horizon: int,
    key: PRNGKeyArray,
    num_tasks: int = 20,
    tune_horizon: int | None = None,
    tune_tasks: int = 10,
    rates: Float[np.ndarray, " num_rates"] | None = None,
    final_steps: int | None = None,
    batch_size: int | None = None,
    on_done: Callable[[str], None] | None = None,
) -> dict[str, Contender]:
    """Runs every optimizer on the same `num_tasks` tasks; baselines get the best rate of a grid first, on other keys.

    **Arguments:** `tune_horizon`: the rate is tuned for the final loss at this step; default `horizon`. `rates`: default
    half-decade steps from 1e-4 to 10. The other arguments are as in `evaluate` and `tune`.

    **Raises:** `ValueError` for a baseline that does not exist, or that minibatches would mislead (L-BFGS).
    """
    chosen = {name: baselines.get(name) for name in baseline_names}
    for name, baseline in chosen.items():
        if baseline.deterministic_only and not is_deterministic(family, key):
            raise ValueError(
                f"{name} needs a deterministic loss for its line search, but this task's loss depends on its key "
                "(minibatches). Leave it out."
            )
    tune_key, test_key = jax.random.split(key)
    rates = baselines.learning_rates() if rates is None else rates
    run = {"horizon": horizon, "num_tasks": num_tasks, "key": test_key, "batch_size": batch_size}
    results = {}
    for name, optimizer in learned.items():
        results[name] = Contender(evaluate(optimizer, family, **run), learned=True)
        if on_done is not None:
            on_done(name)
    for name, baseline in chosen.items():
        tuned = None
        if baseline.tuned:
            tuned = tune(
                baseline.make,
                rates,
                family,
                horizon=tune_horizon or horizon,
                num_tasks=tune_tasks,
                key=tune_key,
                final_steps=final_steps,
            )
        optimizer = baseline.make(tuned.value if tuned else None)
        results[name] = Contender(evaluate(optimizer, family, **run), tuned)
        if on_done is not None:
            on_done(name)
    return results


def loss_at(contender: Contender, step: int, window: int = 1) -> Float[np.ndarray, " num_tasks"]:
    """Each task's loss at `step`: the mean over the `window` steps that end there."""
    return contender.curves.losses[:, step - window + 1 : step + 1].mean(axis=1)


def best_baseline(
    results: Mapping[str, Contender], step: int, window: int = 1, names: Sequence[str] | None = None
) -> str:
    """Name of the baseline with the smallest mean loss at `step`; one that diverged on any task is last.

    **Raises:** `ValueError` if there is none among `names` (default: all but learned ones).
    """
    names = [n for n, c in results.items() if not c.learned and (names is None or n in names)]
    if not names:
        raise ValueError("There is no baseline among the results to compare with.")
    means = [loss_at(results[n], step, window).mean() for n in names]
    return names[int(np.argmin(np.where(np.isfinite(means), means, np.inf)))]


def rows(results: Mapping[str, Contender], steps: Sequence[int], window: int = 1) -> list[dict[str, Any]]:
    """One row per optimizer and step: mean and median loss with 95 % bootstrap intervals, and the number that diverged."""
    table = []
    for name, contender in results.items():
        for step in steps:
            values = loss_at(contender, step, window)
            finite = bool(np.isfinite(values).all())
            with np.errstate(all="ignore"):
                table.append(
                    {
                        "optimizer": name,
                        "rate": contender.tuned.value if contender.tuned else None,
                        "rate_at_edge": bool(contender.tuned and contender.tuned.at_edge),
                        "step": step,
                        "mean": float(values.mean()),
                        "mean_interval": bootstrap_interval(values) if finite else None,
                        "median": float(np.median(values)),
                        "median_interval": bootstrap_interval(values, np.median),
                        "num_tasks": len(values),
                        "num_diverged": int((~np.isfinite(values)).sum()),
                        **{f"final_{k}": float(v.mean()) for k, v in contender.curves.metrics.items()},
                    }
                )
    return table


def ratio_to_best(
    results: Mapping[str, Contender],
    name: str,
    step: int,
    window: int = 1,
    names: Sequence[str] | None = None,
) -> tuple[str, float, float, float]:
    """(best baseline, ratio of mean losses at `step`, and its 95 % interval over the same tasks)."""
    best = best_baseline(results, step, window, names)
    return best, *ratio_interval(loss_at(results[name], step, window), loss_at(results[best], step, window))
