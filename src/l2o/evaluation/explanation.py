"""What an update rule amounts to: how it answers to gradients, and how much of it a rule of a few constants explains.

Any rule will do, learned or hand-designed. It is run on tasks of a family; the gradients that some coordinates met and the
updates proposed are recorded; surrogates (`l2o.evaluation.surrogates`) are fitted to the records of some tasks and judged on
those of others, by the updates and, what decides, by the loss that they reach when they are run themselves.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from l2o.core import keys as _keys
from l2o.core.checks import count, counts
from l2o.core.coordinates import num_coordinates
from l2o.core.curves import evaluate
from l2o.core.optimizer import AbstractLearnedOptimizer, Optimizer, check_optimizer
from l2o.core.task import TaskFamily, check_family, is_deterministic
from l2o.evaluation import followed, surrogates
from l2o.evaluation.explained import RULE, Exact, Explanation, Trajectory, best_of
from l2o.evaluation.followed import Runs, recorded
from l2o.evaluation.tuning import tune
from l2o.optimizers import baselines
from l2o.optimizers.wrappers.beyond import bare
from l2o.optimizers.wrappers.preconditioned import is_formula

BASELINES = ("sgd", "adam")

_SMALL = 1000  # params; tasks with fewer run side by side, and many of them


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

    Surrogates (`surrogates.FORMS`) are cases of one formula; $R^2 = 1 - \sum w (u - \hat u)^2 / \sum w u^2$, about zero, on
    runs that no constant was fitted to. The weights count every run, step and array of the params alike
    (`surrogates.samples`). SGD and Adam are tuned on further tasks.

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
    index, group = followed.drawn_coordinates(sizes, mine, draw_key)
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
    best = best_of(fitted)

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
    labels = {i: followed.label(params, int(index[i])) for i in followed.shown(paths[RULE].gradients)}
    others = {**rivals, best: fitted[best].rule}
    point = float(fitted["saturation, memory"].rule.saturation)
    proposed = {RULE: held_out.updates} | {n: followed.replayed(r, held_out.gradients) for n, r in rivals.items()}
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
        responses=tuple(
            followed.responses(optimizer, others, family, test_keys[one], index, labels, paths[RULE], horizon)
        ),
        trajectories=tuple(
            Trajectory(
                label, {n: p.params[:, i] for n, p in paths.items()}, {n: p.updates[:, i] for n, p in paths.items()}
            )
            for i, label in labels.items()
        ),
        exact=_exact(optimizer, part),
    )


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


def _exact(optimizer, part):
    groups: Any = optimizer.group_rules() if isinstance(optimizer, AbstractLearnedOptimizer) else None
    rules: dict[Any, Any] = {n: bare(rule) for n, rule in (groups or {None: optimizer}).items() if part in (None, n)}
    return tuple(Exact(name, rule.formula(), rule.optax_code()) for name, rule in rules.items() if is_formula(rule))


def _in_place_of(optimizer, part, surrogate, params):
    if part is None:
        return surrogate
    rules = {name: group.rule for name, group in optimizer.coordinate_groups(params).items()}
    return optimizer.with_groups({**rules, part: surrogate})
