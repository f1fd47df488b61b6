"""What an update rule amounts to: how it answers to gradients, and how much of it a rule of a few constants explains.

Any rule will do, learned or hand-designed. It is run on tasks of a family; the gradients that some coordinates met and the
updates proposed are recorded; surrogates (`l2o.surrogates`) are fitted to the records of some tasks and judged on those of
others, by the updates and, what decides, by the loss that they reach when they are run themselves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from l2o.core import keys as _keys
from l2o.core.checks import count, counts
from l2o.core.coordinates import conjugate, flatten, num_coordinates
from l2o.core.curves import evaluate
from l2o.core.inner_loop import InnerState
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, check_optimizer, with_extra_args
from l2o.core.task import AbstractTask, TaskFamily, check_family, is_deterministic
from l2o.core.unroll import begin, unroll
from l2o.evaluation import surrogates
from l2o.evaluation.statistics import Estimate, bootstrap_interval, ratio_interval
from l2o.evaluation.surrogates import Fitted
from l2o.evaluation.tuning import Tuned, tune
from l2o.optimizers import baselines

RULE = "rule"  # the name of what is explained, among those of baselines and surrogates
BASELINES = ("sgd", "adam")

_SMALL = 1000  # params; tasks with fewer run side by side, and many of them
_NUM_SWEPT = 61  # gradients of a sweep; odd, so that zero is one


class Response(NamedTuple):
    """The update of one coordinate as a function of its gradient at one step of a run, everything else as it was there.

    Baselines and the best surrogate met the same gradients up to that step.
    """

    coordinate: str
    step: int  # the first is 1
    gradients: Float[np.ndarray, " num"]  # loss per parameter; symmetric about 0
    updates: dict[str, Float[np.ndarray, " num"]]  # by optimizer; in the parameter's unit
    gradient: float  # the one that the run met there
    update: float  # and the rule's update


class Trajectory(NamedTuple):
    """One coordinate of one task under several optimizers, each on its own path."""

    coordinate: str
    params: dict[str, Float[np.ndarray, " horizon"]]
    updates: dict[str, Float[np.ndarray, " horizon"]]


class Explanation(NamedTuple):
    """What `explain` found. Optimizers are "rule" (the one explained), "sgd", "adam" and the surrogates by name."""

    part: str | None  # of a partitioned optimizer; surrogates were run in its place, the other parts as they are
    horizon: int
    window: int  # final losses are means over this many last steps
    num_params: int  # of the part, if there is one
    num_fitted: int  # runs that surrogates were fitted to
    num_held_out: int
    num_diverged: int  # of the rule's runs, left out
    num_coordinates: int  # recorded of each run
    fitted: dict[str, Fitted]
    best: str  # of the surrogates within 0.005 of the largest R² on the runs fitted, the one with the fewest constants
    tuned: dict[str, Tuned]  # baselines
    losses: dict[str, Float[np.ndarray, "num_held_out horizon_plus_1"]]  # on the held-out tasks
    against: dict[str, float]  # share of updates with the gradient's own sign (uphill); baselines on the same gradients
    beyond: float  # share of gradients larger than the saturation point of "saturation, memory"
    responses: tuple[Response, ...]
    trajectories: tuple[Trajectory, ...]

    @property
    def best_constant(self) -> str:
        """The best surrogate of those whose step sizes do not depend on the step."""
        return _best({name: found for name, found in self.fitted.items() if not found.form.timed})

    def final(self, name: str, step: int | None = None) -> Estimate:
        """Mean loss on the held-out tasks after `step` steps (default: all), over the last `window`, and its 95 % interval."""
        losses = self._losses_at(name, step)
        with np.errstate(all="ignore"):
            return Estimate(float(losses.mean()), *bootstrap_interval(losses))

    def ratio(self, name: str, to: str, step: int | None = None) -> Estimate:
        """Ratio of such mean losses, paired over tasks, and its 95 % interval."""
        return Estimate(*ratio_interval(self._losses_at(name, step), self._losses_at(to, step)))

    def num_lost(self, name: str) -> int:
        """Held-out runs that ended in inf or NaN."""
        return int((~np.isfinite(self._losses_at(name, None))).sum())

    def _losses_at(self, name, step):
        last = self.horizon if step is None else step
        with np.errstate(all="ignore"):
            return self.losses[name][:, max(0, last + 1 - self.window) : last + 1].mean(axis=1)

    def steps(self) -> tuple[int, ...]:
        """The steps at which things are told: the first, a tenth, half and all of the horizon (1, 10, 50, 100 of 100)."""
        return _steps(self.horizon)


def explain(
    optimizer: Optimizer,
    family: TaskFamily,
    *,
    horizon: int,
    key: PRNGKeyArray,
    part: str | None = None,
    num_tasks: int | None = None,
    num_fitted: int | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Explanation:
    r"""Fits surrogates to `optimizer` on tasks of `family`, and records how it answers to gradients.

    Surrogates (`l2o.surrogates.FORMS`) are cases of one formula; $R^2 = 1 - \sum w (u - \hat u)^2 / \sum w u^2$, about zero, on
    runs that no constant was fitted to. The weights count every run, step and array of the params alike
    (`l2o.surrogates.samples`). SGD and Adam are tuned on further tasks.

    **Arguments:**

    - `optimizer`: learned, or any optax transformation. One that is not coordinatewise is explained as far as its updates
        follow from each coordinate's own gradients.
    - `horizon`: steps of a run.
    - `part`: of an `l2o.Partitioned`, explain this part, on its own params. Where surrogates are run themselves, they take its
        place and the other parts stay. Default: the whole, as if it were one rule; several rules in one are explained badly.
    - `num_tasks`: held-out runs; default 256, or 10 of tasks with more than 1,000 parameters. `num_fitted`: runs to fit to;
        default 64, or 10.
    - `on_stage`: called with a few words before each stage.

    **Raises:** `ValueError` if `part` is none of its parts, if there are fewer than 2 runs of a kind, if more than half of the
    rule's runs diverge, or if it proposes no updates; as `check_family` for a broken family.
    """
    told = on_stage or (lambda words: None)
    check_optimizer("optimizer", optimizer)
    key = _keys.one(key)
    count("horizon", horizon)
    if any(n is not None and n < 2 for n in (num_tasks, num_fitted)):
        raise ValueError(
            f"`num_tasks` and `num_fitted` must be at least 2, so that there are intervals, got num_tasks={num_tasks} and "
            f"num_fitted={num_fitted}."
        )
    counts(num_tasks=num_tasks, num_fitted=num_fitted)
    check_family(family, key)
    fit_key, test_key, tune_key, draw_key = jax.random.split(key, 4)
    params = eqx.filter_eval_shape(lambda: family(fit_key).init(fit_key))
    mine = _leaves_of(optimizer, part, params)
    sizes = [num_coordinates(leaf) for leaf in jax.tree.leaves(params)]
    small = sum(sizes) <= _SMALL
    num_tasks = num_tasks or (256 if small else 10)
    num_fitted = num_fitted or (64 if small else 10)
    index, group = _drawn_coordinates(sizes, mine, draw_key)
    window = 1 if is_deterministic(family, draw_key) else max(1, horizon // 10)
    fit_keys, test_keys = jax.random.split(fit_key, num_fitted), jax.random.split(test_key, num_tasks)

    def run(rule, keys):
        return recorded(rule, family, index, keys, horizon=horizon, together=small)

    told("running the rule")
    both = run(optimizer, jnp.concatenate([fit_keys, test_keys]))
    finite = np.isfinite(both.gradients).all(axis=(1, 2)) & np.isfinite(both.updates).all(axis=(1, 2))
    halves = np.flatnonzero(finite[:num_fitted]), num_fitted + np.flatnonzero(finite[num_fitted:])
    if 2 * len(halves[0]) < num_fitted or 2 * len(halves[1]) < num_tasks:
        raise ValueError(
            f"{int((~finite).sum())} of {len(finite)} runs of the rule diverged within {horizon} steps: there is nothing to "
            "explain. Is this the family it was made for? Try a shorter horizon."
        )
    fitting, held_out = (surrogates.samples(both.gradients[h], both.updates[h], group) for h in halves)

    fitted = {}
    for form in surrogates.FORMS:
        told(f"fitting: {form.name}")
        fitted[form.name] = surrogates.fit(form, fitting, held_out)
    best = _best(fitted)

    tuned, rivals = {}, {}
    ran = {RULE: Runs(*(x[num_fitted:] for x in both))}
    for name in BASELINES:
        told(f"tuning {name}")
        options = {"horizon": horizon, "num_tasks": min(num_fitted, num_tasks), "final_steps": window, "key": tune_key}
        tuned[name] = tune(baselines.get(name).make, baselines.learning_rates(), family, **options)
        rivals[name] = baselines.get(name).make(tuned[name].rate)
        told(f"running {name}")
        ran[name] = run(rivals[name], test_keys)
    losses = {name: one.losses for name, one in ran.items()}
    for name, found in fitted.items():
        told(f"running {name}")
        options = {"horizon": horizon, "num_tasks": num_tasks, "key": test_key, "batch_size": None if small else 1}
        losses[name] = evaluate(_in_place_of(optimizer, part, found.rule, params), family, **options).losses

    told("sweeping gradients")
    one = int(halves[1][0]) - num_fitted  # the run that is shown
    paths = {name: Runs(*(x[one] for x in found)) for name, found in ran.items()}
    shown = {i: _label(params, int(index[i])) for i in _shown(paths[RULE].gradients)}
    others = {**rivals, best: fitted[best].rule}
    point = float(fitted["saturation, memory"].rule.saturation)
    proposed = {RULE: held_out.updates} | {n: _replayed(r, held_out.gradients) for n, r in rivals.items()}
    moving = held_out.gradients != 0
    return Explanation(
        part=part,
        horizon=horizon,
        window=window,
        num_params=sum(size for size, own in zip(sizes, mine, strict=True) if own),
        num_fitted=len(halves[0]),
        num_held_out=num_tasks,
        num_diverged=int((~finite).sum()),
        num_coordinates=len(index),
        fitted=fitted,
        best=best,
        tuned=tuned,
        losses=losses,
        against={n: float((u * held_out.gradients > 0)[moving].mean()) for n, u in proposed.items()},
        beyond=float((np.abs(held_out.gradients) > point)[moving].mean()),
        responses=tuple(_responses(optimizer, others, family, test_keys[one], index, shown, paths[RULE], horizon)),
        trajectories=tuple(
            Trajectory(
                label, {n: p.params[:, i] for n, p in paths.items()}, {n: p.updates[:, i] for n, p in paths.items()}
            )
            for i, label in shown.items()
        ),
    )


def _best(fitted):
    """As good as the best, and no larger than it need be. Chosen on the runs fitted: held-out ones choose nothing."""
    largest = max(found.r2_fit for found in fitted.values())
    close = [name for name, found in fitted.items() if found.r2_fit >= largest - 0.005]
    return min(close, key=lambda name: fitted[name].num_constants)


class Runs(NamedTuple):
    """What `recorded` found."""

    losses: Any  # [num_runs, horizon + 1]
    params: Any  # [num_runs, horizon, num_coordinates]
    gradients: Any
    updates: Any


def recorded(optimizer, family, index, keys, *, horizon, together) -> Runs:
    """Runs of `horizon` steps on the task of every key: losses, and what the coordinates at `index` of the raveled params met.

    `together`: the runs side by side in one vectorised program, rather than one after another.
    """
    losses, record = _record(optimizer, family, index, keys, length=horizon + 1, together=together)
    return Runs(np.asarray(losses), *(np.asarray(x)[:, :horizon] for x in record))


@eqx.filter_jit
def _record(
    optimizer: Optimizer,
    family: TaskFamily,
    index: Int[Array, " num_coordinates"],
    keys: Key[Array, " num_tasks"],
    *,
    length: int,
    together: bool,
) -> tuple[Float[Array, "num_tasks length"], PyTree]:
    def one(key):
        def record(step):
            met = (flatten(tree)[0][index] for tree in (step.params, step.gradient, step.updates))
            return step.loss, tuple(met)

        task, state, batch_key = begin(family, optimizer, key)
        return unroll(task, optimizer, state, batch_key, length=length, record=record)[1]

    return jax.lax.map(one, keys, batch_size=len(keys) if together else 1)


def _leaves_of(optimizer, part, params):
    """Of every leaf of the params, whether it is the part's."""
    if part is None:
        return [True] * len(jax.tree.leaves(params))
    groups = (optimizer.coordinate_groups(params) if isinstance(optimizer, AbstractLearnedOptimizer) else None) or {}
    if part not in groups:
        there = f"Its parts: {', '.join(sorted(groups))}." if groups else "It is one rule: give no `part`."
        raise ValueError(f"The optimizer has no part {part!r}. {there}")
    taken = groups[part].take(params)
    return [leaf is not None for leaf in jax.tree.leaves(taken, is_leaf=lambda x: x is None)]


def _in_place_of(optimizer, part, surrogate, params):
    if part is None:
        return surrogate
    rules = {name: group.rule for name, group in optimizer.coordinate_groups(params).items()}
    return optimizer.with_groups({**rules, part: surrogate})


def _drawn_coordinates(sizes, mine, key):
    """Positions in the raveled params of coordinates drawn from every array that is ours, and which array each is of."""
    most, rng = max(4, 128 // sum(mine)), np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    starts = np.cumsum([0, *sizes[:-1]])
    drawn = [
        start + np.sort(rng.choice(n, min(n, most), replace=False))
        for start, n, own in zip(starts, sizes, mine, strict=True)
        if own
    ]
    group = np.repeat(np.arange(len(drawn)), [len(d) for d in drawn])
    return jnp.asarray(np.concatenate(drawn), jnp.int32), group


def _label(params, position):
    """A coordinate as one would write it: θ['w'][3, 7], or Re θ['w'][3, 7] of a complex number's two."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        num = num_coordinates(leaf)
        if position < num:
            part = ""
            if num > leaf.size:
                part, position = ("Re ", "Im ")[position % 2], position // 2
            place = ", ".join(str(int(i)) for i in np.unravel_index(position, leaf.shape))
            return f"{part}θ{jax.tree_util.keystr(path)}" + (f"[{place}]" if place else "")
        position -= num
    raise AssertionError("a position beyond the params")


def _shown(gradients):
    """Two coordinates to look at: of those that have gradients, one in the middle by their size, and one of the largest."""
    size = np.sqrt((gradients**2).mean(axis=0))
    order = np.argsort(size)[np.sum(size == 0) :]
    if not len(order):
        order = np.argsort(size)
    return sorted({int(order[round(q * (len(order) - 1))]) for q in (0.5, 0.9)})


def _steps(horizon):
    return tuple(sorted({max(1, round(share * horizon)) for share in (0.01, 0.1, 0.5, 1.0)}))


def _responses(optimizer, others, family, key, index, shown, path, horizon):
    """At every step told, for every coordinate shown. `others` are coordinatewise: they are replayed on its gradients alone."""
    task, state, batch_key = begin(family, optimizer, key)
    for step in range(1, horizon + 1):
        for i, label in shown.items() if step in _steps(horizon) else ():
            history = path.gradients[:, i]
            near = np.abs(history[max(0, step - 11) : step + 10]).max()  # what the coordinate meets about then
            swept = np.linspace(-1.5, 1.5, _NUM_SWEPT) * (near or np.abs(history).max() or 1.0)
            values = jnp.asarray(swept, history.dtype)
            updates = {RULE: np.asarray(_swept(optimizer, task, state, batch_key, index[i], values))}
            histories = np.concatenate([np.repeat(history[: step - 1, None], _NUM_SWEPT, axis=1), swept[None]])
            updates |= {name: _replayed(rule, histories)[-1] for name, rule in others.items()}
            yield Response(label, step, swept, updates, float(history[step - 1]), float(path.updates[step - 1, i]))
        state = _advanced(optimizer, task, state, batch_key)


@eqx.filter_jit
def _advanced(optimizer: Optimizer, task: AbstractTask, state: InnerState, key: PRNGKeyArray) -> InnerState:
    return unroll(task, optimizer, state, key, length=1)[0]


@eqx.filter_jit
def _swept(
    optimizer: Optimizer,
    task: AbstractTask,
    state: InnerState,
    key: PRNGKeyArray,
    position: Int[Array, ""],
    values: Float[Array, " num"],
) -> Float[Array, " num"]:
    """The coordinate's update for each value of its gradient; state, params and all other gradients as they are."""
    step_key = _keys.of_step(key, state.step)
    loss, gradient = jax.value_and_grad(task.loss)(state.params, step_key)
    flat, rebuild = flatten(conjugate(gradient))

    def one(value):
        changed = rebuild(flat.at[position].set(value))
        extra = {"value": loss, "grad": changed, "value_fn": lambda params: task.loss(params, step_key)}
        updates, _ = with_extra_args(optimizer).update(changed, state.opt_state, state.params, **extra)
        return flatten(updates)[0][position]

    return jax.lax.map(one, values)


def _replayed(rule: Optimizer, gradients: Float[np.ndarray, "horizon num"]):
    """The updates of a coordinatewise rule that needs no params on given gradients: [horizon, num]."""
    history = jnp.asarray(gradients, jnp.float32)

    def step(state, gradient):
        updates, state = rule.update(gradient, state)
        return state, updates

    return np.asarray(jax.lax.scan(step, rule.init(history[0]), history)[1])
