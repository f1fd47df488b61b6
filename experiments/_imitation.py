"""Imitation of hand-designed rules, one for each kind of parameter, on gradients recorded in whole runs.

The kinds are the params' top-level keys; params that are a single array are of one kind. A coordinatewise rule needs no more
than the gradients of some coordinates, in the teachers' runs and then in the student's own; so this costs next to nothing
beside back-propagation through the net.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _teacher import together

import l2o
from l2o.evaluation import followed
from l2o.optimizers import lstm


class Fit(NamedTuple):
    """A stretch of imitation."""

    num_steps: int  # meta-steps
    length: int  # inner steps
    rate: float
    num_coordinates: int
    own: bool  # whether a run of the student's own is recorded first


class Plan(NamedTuple):
    """How much of everything."""

    horizon: int
    num_runs: int  # of the teacher's on each family, recorded
    num_coordinates: int  # recorded of each kind
    fits: tuple[Fit, ...]

    @property
    def num_recorded(self):
        """Runs on each family: the teacher's and the student's own."""
        return self.num_runs + sum(fit.own for fit in self.fits)

    @property
    def num_steps(self):
        """Meta-steps in all."""
        return sum(fit.num_steps for fit in self.fits)


def student(key, horizon, **constants):
    """An LSTM that can tell how late it is, which it has to."""
    return lstm.chrono(lstm.build(key, **constants), horizon, key=jax.random.fold_in(key, 1))


def students(key, horizon, constants: Mapping[str, Mapping[str, Any]]):
    """One for each kind of parameter."""
    keys = jax.random.split(key, len(constants))
    return l2o.Partitioned(
        {name: student(k, horizon, **c) for k, (name, c) in zip(keys, constants.items(), strict=True)}
    )


def imitate(optimizer, teachers: Mapping[str, optax.GradientTransformation], families, plan: Plan, key):
    """The student after all fits, to more and more runs on each of the families: the teachers', then its own as well.

    A `Partitioned` student has a part for each of the `teachers`; any other is to do what all of them do.

    **Raises:** `FloatingPointError` if a run diverges.
    """

    def runs(optimizer, i):
        return [record(optimizer, family, jax.random.fold_in(key, i), plan) for family in families]

    recorded = [run for i in range(plan.num_runs) for run in runs(together(teachers), i)]
    for i, fit in enumerate(plan.fits):
        if fit.own:
            recorded += runs(optimizer, plan.num_runs + i)
        optimizer, error = imitate_recorded(optimizer, teachers, recorded, fit, seed=i)
        print(f"imitation, {fit.length} steps: relative squared error {error:.3f}", flush=True)
    return optimizer


def record(optimizer, family, key, plan):
    """Gradients [horizon, num_coordinates] of each kind of parameter in one run: half from all coordinates, half by leaf."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    index, start = [], 0  # in the raveled params, kind by kind
    params = jax.eval_shape(lambda: family(key).init(key))
    kinds = params if isinstance(params, Mapping) else {"all": params}
    for part in kinds.values():
        starts = start + np.cumsum([0, *(leaf.size for leaf in jax.tree.leaves(part))])
        # By leaf: small ones, batch norms and biases, matter as much as large ones.
        half = plan.num_coordinates // 2
        leaf = rng.integers(0, len(starts) - 1, half)
        by_leaf = starts[leaf] + rng.integers(0, np.diff(starts)[leaf])
        index += [rng.integers(start, starts[-1], half), by_leaf]
        start = starts[-1]
    run = followed.recorded(
        optimizer, family, jnp.asarray(np.concatenate(index)), key[None], horizon=plan.horizon, together=False
    )
    if not np.isfinite(run.gradients).all():
        raise FloatingPointError(
            "A recorded run has gradients that are not finite. Imitate for longer before `own` runs."
        )
    print(
        f"recorded a run: loss {run.losses[0, :-1][-plan.horizon // 10 :].mean():.3f} over its last tenth", flush=True
    )
    return dict(zip(kinds, np.split(run.gradients[0], len(kinds), axis=1), strict=True))


def imitate_recorded(optimizer, teachers, recorded, fit, *, seed):
    """Descends the relative squared error of the updates over the first `fit.length` steps of random recorded coordinates."""
    schedule = optax.cosine_decay_schedule(fit.rate, fit.num_steps, 0.05)
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    rng, errors = np.random.default_rng(seed), []
    state = rule.init(eqx.filter(optimizer, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(optimizer, state, gradients):
        error, gradient = eqx.filter_value_and_grad(imitation_error)(optimizer, teachers, gradients)
        updates, state = rule.update(gradient, state)
        return eqx.apply_updates(optimizer, updates), state, error

    for _ in range(fit.num_steps):
        run = recorded[rng.integers(len(recorded))]
        gradients = {
            name: jnp.asarray(g[: fit.length, rng.integers(g.shape[1], size=fit.num_coordinates)])
            for name, g in run.items()
        }
        optimizer, state, error = step(optimizer, state, gradients)
        errors.append(float(error))
    return optimizer, np.mean(errors[-20:])


def imitation_error(optimizer, teachers, gradients):
    r"""Mean over kinds and over stretches of ten steps of $\lVert u - v \rVert^2 / (\lVert v \rVert\, v_\text{rms})$.

    $v$ is the teacher's update, $v_\text{rms}$ the root mean square of its norm: late, small updates count for more than their
    size, and for less than as much as early ones, which an unripe student would give up to follow them.
    """
    errors = []
    for name, g in gradients.items():
        rule, copied = (optimizer.parts[name] if isinstance(optimizer, l2o.Partitioned) else optimizer), teachers[name]
        _, wanted = jax.lax.scan(lambda s, x, t=copied: t.update(x, s)[::-1], copied.init(g[0]), g)
        own = jax.checkpoint(lambda s, x, r=rule: r.update_coordinates(x, s, None)[::-1])
        _, updates = jax.lax.scan(own, rule.init_coordinates(g.shape[1]), g)
        distance, scale = (jnp.sum(x**2, axis=1).reshape(-1, 10).sum(axis=1) for x in (updates - wanted, wanted))
        errors.append(jnp.mean(distance / jnp.sqrt(scale * jnp.mean(scale) + 1e-20)))
    return sum(errors) / len(errors)
