r"""Search of meta-parameters by evolution: CMA-ES (Hansen & Ostermeier 2001) on the final loss itself.

For rules of a few constants it is the method of choice: it needs no gradient, sees the whole run at once, and is not misled by a
loss that is chaotic in $\varphi$ (Metz et al. 2019, section 3). For networks of thousands of meta-parameters the covariance is
kept diagonal (Ros & Hansen 2008), which is rarely better than PES.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray

from l2o.core import keys, parallel
from l2o.core.checks import count, counts, flags, kind, positive
from l2o.core.finals import FinalLosses, like, means_to_minimise
from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.core.task import TaskFamily, check_family, is_deterministic
from l2o.io.extras import extra
from l2o.io.files import holding_its_folder
from l2o.io.run_file import RunFile
from l2o.meta.step import check_trainable
from l2o.optimizers.wrappers.beyond import bare

_DIAGONAL_FROM = 300  # meta-parameters: a full covariance costs their cube


@dataclasses.dataclass
class Searched:
    """Result of `search`."""

    optimizer: AbstractLearnedOptimizer  # the best by validation
    last: AbstractLearnedOptimizer  # the mean of the last search distribution
    score: float  # mean final loss of `optimizer` on the validation tasks; with a target the mean of `unsolved`
    start_score: float  # of the optimizer that the search started from, on the same tasks
    num_generations: int
    num_runs: float  # inner runs, those of validation included
    num_inner_steps: float
    seconds: float
    history: list[
        dict[str, Any]
    ]  # a row per generation: its best and median mean loss, the step size, ... and validation

    @property
    def num_episodes(self) -> float:
        """As of `MetaTrained`: inner runs that it took."""
        return self.num_runs


@holding_its_folder
def search(
    optimizer: AbstractLearnedOptimizer,
    family: TaskFamily,
    *,
    horizon: int,
    key: PRNGKeyArray,
    where: Callable[[Any], Any] | None = None,
    num_generations: int = 50,
    population: int = 16,
    num_tasks: int = 4,
    sigma: float = 0.3,
    bounds: float | None = None,
    target: float | None = None,
    num_evals: int | None = None,
    racing: bool = True,
    restarts: int = 0,
    num_validation: int = 32,
    validate_every: int = 10,
    max_seconds: float | None = None,
    batch_size: int | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    on_generation: Callable[[dict[str, Any]], bool | None] | None = None,
    devices: Sequence[parallel.Device] | None = None,
    runs: FinalLosses | None = None,
) -> Searched:
    r"""Moves $\varphi$ to where the mean loss after `horizon` steps is smallest, by CMA-ES.

    Every generation draws `num_tasks` fresh tasks, which all its candidates run on with the same starts and minibatches: common
    random numbers, without which the noise of tasks would drown the differences. Runs of all candidates and tasks are one
    program. With `racing`, all candidates run on half of the tasks, and only the better half of them on the others: CMA-ES
    learns most from the best, of which more is then known.

    ```python
    found = l2o.search(l2o.Momentum(100, learn_power=True), family, horizon=100, key=key)
    ```

    **Arguments:**

    - `optimizer`: where to start. Its meta-parameters should be free numbers of order one, such as logarithms and logits.
    - `where`: which of them are searched, as for `equinox.tree_at`: `where=lambda rule: [rule.log_rate, rule.logit_b1]`. Default:
        all.
    - `sigma`: the first step size, the same for all meta-parameters.
    - `target`: what counts is not how small losses are, but how many runs end below the target: the search minimises the mean of
        $l^2 / (l^2 + \text{target}^2)$ over last losses $l$, a smooth share of those that do not.
    - `bounds`: how far each meta-parameter may go from where it starts. Default: anywhere.
    - `num_evals`: minibatches on which a run's loss is judged; default 8 where losses depend on them, else 1.
    - `restarts`: how often the search starts anew, with the same step size, from the best so far, after it has converged.
    - `num_validation`, `validate_every`: tasks, of another key, on which the mean of the search distribution is judged every so
        many generations. The best is the result; the start is a candidate too.
    - `max_seconds`: stop early after this much wall clock in this call.
    - `batch_size`: tasks that run at once on a device, each with all candidates; default all.
    - `folder`, `resume`: where every generation's scores are kept, so that a run which was killed goes on and gives the same
        result, bit for bit.
    - `on_generation`: called with each row of the history. If it returns True, the search ends there.
    - `runs`: the compiled runs of an earlier search of such an optimizer on this family. Default: they are compiled anew.

    **Raises:** before anything is run, `ValueError` for bad arguments or tasks, if there is nothing to train, or if another
    search is to be resumed; `FileExistsError` if `folder` holds a search and `resume` is not set; `FileNotFoundError` if it holds
    none and it is; `FloatingPointError` if every candidate of a generation diverges on every task, the first included.
    """
    with extra("train", "l2o.search"):
        import cmaes
    optimizer = check_trainable(bare(optimizer))
    searched = _chosen(optimizer, where)
    key = keys.one(key)
    counts(horizon=horizon, population=population, num_tasks=num_tasks, num_validation=num_validation)
    counts(num_evals=num_evals, batch_size=batch_size, validate_every=validate_every)
    count("num_generations", num_generations, at_least=0)
    count("restarts", restarts, at_least=0)
    if population < 4:
        raise ValueError(f"`population` must be at least 4, got {population}.")
    flags(racing=racing, resume=resume)
    positive("sigma", sigma)
    if bounds is not None:
        positive("bounds", bounds)
    if target is not None:
        positive("target", target)
    check_family(family, keys.of_check(key))
    num_evals = num_evals or (1 if is_deterministic(family, keys.of_check(key)) else 8)
    settings = {
        "optimizer": optimizer,
        "where": [i for i, taken in enumerate(jax.tree.leaves(searched)) if taken],
        "family": family,
        "key": key,
        "horizon": horizon,
        "population": population,
        "num_tasks": num_tasks,
        "num_evals": num_evals,
        "sigma": float(sigma),
        "bounds": bounds,
        "target": target,
        "racing": racing,
        "num_validation": num_validation,
        "validate_every": validate_every,
        "precision": jnp.finfo(jnp.zeros(()).dtype).bits,
    }
    record = _Record(None if folder is None else Path(folder), resume, settings)
    arrays, fixed = eqx.partition(optimizer, searched)
    flat, unravel = ravel_pytree(arrays)
    start = np.asarray(flat, np.float64)
    limits = None if bounds is None else np.stack([start - bounds, start + bounds], axis=1)
    if runs is None:
        runs = FinalLosses(
            like(optimizer), family, horizon=horizon, num_evals=num_evals, batch_size=batch_size, devices=devices
        )
    task_key, validation_key, seed_key = jax.random.split(key, 3)
    validation_keys = jax.random.split(validation_key, num_validation)
    seed = int(jax.random.randint(seed_key, (), 0, 2**31 - 1))
    started, num_runs = time.monotonic(), 0.0

    def as_rule(x):
        return eqx.combine(unravel(jnp.asarray(x, flat.dtype)), fixed)

    def losses(xs, task_keys):
        nonlocal num_runs
        num_runs += len(xs) * len(task_keys)
        # Half a population at a time, so that the whole race is one program, which is compiled once.
        values = jax.vmap(lambda x: eqx.filter(as_rule(x), eqx.is_inexact_array))(jnp.asarray(np.stack(xs), flat.dtype))
        return runs(values, task_keys, values_together=min(len(xs), (population + 1) // 2))

    def mean_loss(generation, x):
        return record.validation(generation, lambda: float(means_to_minimise(losses([x], validation_keys), target)[0]))

    def strategy(mean, restart):
        kind = cmaes.CMA if len(start) < _DIAGONAL_FROM else cmaes.SepCMA
        return kind(mean=mean, sigma=sigma, bounds=limits, seed=(seed + restart) % 2**31, population_size=population)

    evolution, best, history = strategy(start, 0), start, []
    start_score = score = mean_loss(0, start)
    late = lambda: max_seconds is not None and time.monotonic() - started > max_seconds
    while (done := len(history)) < num_generations and (done < record.num_generations or not late()):
        asked = [evolution.ask() for _ in range(population)]
        task_keys = jax.random.split(keys.of_step(task_key, done), num_tasks)
        means, ranks = record.generation(done, lambda xs=asked, k=task_keys: _judged(losses, xs, k, racing, target))
        if not np.isfinite(means).any():
            raise FloatingPointError(
                f"Every candidate of generation {done + 1} diverged. Start from a smaller rate, or with a smaller `sigma`."
            )
        evolution.tell([(x, float(rank)) for x, rank in zip(asked, ranks, strict=True)])
        row: dict[str, Any] = {"generation": done + 1, "best": float(np.min(means)), "median": float(np.median(means))}
        history.append(row)
        last = done + 1 == num_generations or (late() and done + 1 >= record.num_generations)
        if (done + 1) % validate_every == 0 or last:
            row["validation_loss"] = found = mean_loss(done + 1, evolution.mean)
            if found < score:  # false for NaN
                best, score = evolution.mean.copy(), found
        if on_generation is not None and on_generation(row) is True:
            break
        if evolution.should_stop():
            if restarts == 0:
                break
            restarts -= 1
            evolution = strategy(best, done + 1)

    return Searched(
        optimizer=as_rule(best),
        last=as_rule(evolution.mean),
        score=score,
        start_score=start_score,
        num_generations=len(history),
        num_runs=num_runs,
        num_inner_steps=num_runs * horizon,
        seconds=time.monotonic() - started,
        history=history,
    )


def _chosen(optimizer, where):
    """Which of the leaves are searched: a tree of booleans."""
    if where is None:
        return jax.tree.map(eqx.is_inexact_array, optimizer)
    kind("where", where, callable, "a function of the optimizer that gives some of its meta-parameters")
    nothing = jax.tree.map(lambda _: False, optimizer)
    try:
        chosen = eqx.tree_at(where, nothing, replace_fn=lambda _: True)
        found = eqx.filter(optimizer, chosen)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`where` must give meta-parameters of the optimizer, a {type(optimizer).__name__}: {error}"
        ) from error
    if not jax.tree.leaves(found) or not all(map(eqx.is_inexact_array, jax.tree.leaves(found))):
        raise ValueError(
            f"`where` must give arrays of floating-point numbers, which are searched, got {jax.tree.leaves(found)!r}."
        )
    return chosen


def _judged(losses, candidates, task_keys, racing, target):
    """Mean losses of all candidates, or of `unsolved`, over the tasks that each ran on, and their ranks, the best 0.

    A candidate that diverged on a task has a mean of infinity. Those that fell out of the race come after all that did not.
    """
    half = len(task_keys) // 2 if racing else 0
    first = losses(candidates, task_keys[half:])
    means = np.array(means_to_minimise(first, target))
    if half:
        left = np.argsort(means, kind="stable")[: (len(candidates) + 1) // 2]
        both = np.concatenate([first[left], losses([candidates[i] for i in left], task_keys[:half])], axis=1)
        out = np.setdiff1d(np.arange(len(candidates)), left)
        means[left] = means_to_minimise(both, target)
        order = [*left[np.argsort(means[left], kind="stable")], *out[np.argsort(means[out], kind="stable")]]
    else:
        order = np.argsort(means, kind="stable")
    ranks = np.empty(len(candidates), int)
    ranks[order] = np.arange(len(candidates))
    return means, ranks


class _Generation(msgspec.Struct):
    means: list[float | None]  # None: it diverged
    ranks: list[int]


class _Recorded(msgspec.Struct):
    started_with: dict[str, str | None]
    generations: list[_Generation]
    validations: dict[str, float | None]  # by how many generations were done


class _Record:
    """What was found out, in a file that a search goes on from: scores replay it to the bit."""

    def __init__(self, folder, resume, settings):
        self._file = RunFile(folder, "search.json", "search", _Recorded, resume=resume, settings=settings)
        recorded = self._file.recorded
        self._generations: list[_Generation] = [] if recorded is None else recorded.generations
        self._validations: dict[str, float | None] = {} if recorded is None else recorded.validations
        num = settings["population"]
        if any(len(g.means) != num or sorted(g.ranks) != list(range(num)) for g in self._generations):
            raise ValueError(
                f"{self._file.path} is damaged: a generation has not a mean and a rank for each of {num} candidates."
            )

    @property
    def num_generations(self):
        return len(self._generations)

    def generation(self, index, find):
        """Means and ranks of a generation, found now if it is the next."""
        if index == len(self._generations):
            means, ranks = find()
            finite = [float(x) if np.isfinite(x) else None for x in means]
            self._generations.append(_Generation(finite, [int(r) for r in ranks]))
            self._save()
        found = self._generations[index]
        return np.asarray([np.inf if x is None else x for x in found.means]), found.ranks

    def validation(self, index, find):
        """The mean loss on validation tasks after so many generations."""
        if str(index) not in self._validations:
            found = find()
            self._validations[str(index)] = found if np.isfinite(found) else None
            self._save()
        found = self._validations[str(index)]
        return np.inf if found is None else found

    def _save(self):
        self._file.write(_Recorded(self._file.started_with, self._generations, self._validations))
