"""How a guarded learned optimizer compares with its fallback, on every family and on runs built to break it.

    python benchmarks/guarded.py [--quick] [--tasks 200] [--only FAMILY ...] [--alone]

`l2o.Guarded(learned, optax.adam(1e-3))` for every shipped optimizer, beside Adam(1e-3) itself, on the same tasks, starts
and minibatches. The variants: the family as it is; its loss times 1e6; gradients that are NaN at a random 5 % of the steps
(Adam skips those too, by `optax.apply_if_finite`, or it would end as NaN itself); ReLU nets; 10,000 steps.

A run is within the bar if its final loss (mean over the last tenth of the steps) is at most 10 % above the fallback's. Losses
that both have brought below a millionth of the first loss are level: there rounding decides, not the optimizer.

Columns: runs that end with a loss or params that are not finite; share within the bar, and share strictly better; share that
handed over; share of the steps that were races, which cost a second gradient; median of the loss relative to the fallback's,
and to the bare learned optimizer's.

Bar: none ends non-finite, and at least 95 % of each row are within 10 %.
"""

import argparse
import functools
import inspect
import queue
import time
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import l2o
from l2o import _plugins

BAR = 0.95
FLOOR = 1e-6
LONG = 10_000
# Parameters x steps x tasks of a row: an LSTM optimizer takes some 10 kFLOP for each. Rows of large optimizees have fewer tasks.
WORK = 1e8
MIN_TASKS = 4
SMALLER = {"mlp": {"hidden": (5,)}}
TINY = {"mlp": {"hidden": (2,), "batch_size": 32}}  # for the long run


class Scaled(l2o.AbstractTask):
    """A task whose loss is `scale` times as large."""

    task: l2o.AbstractTask
    scale: float = eqx.field(static=True)

    def init(self, key):
        return self.task.init(key)

    def loss(self, params, key, *, split="train"):
        return self.scale * self.task.loss(params, key, split=split)


@jax.custom_vjp
def poison(params, bad):
    """The params; their gradient is NaN if `bad`."""
    return params


poison.defvjp(
    lambda params, bad: (params, bad),
    lambda bad, g: (jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), g), None),
)


class Poisoned(l2o.AbstractTask):
    """A task whose gradient is NaN at a random `share` of the steps."""

    task: l2o.AbstractTask
    share: float = eqx.field(static=True)

    def init(self, key):
        return self.task.init(key)

    def loss(self, params, key, *, split="train"):
        bad = jax.random.bernoulli(jax.random.fold_in(key, 99), self.share)
        return self.task.loss(poison(params, bad), key, split=split)


class Wrapped(eqx.Module):
    """The family whose tasks are those of `family`, wrapped."""

    family: l2o.TaskFamily
    wrapper: type = eqx.field(static=True)
    argument: float = eqx.field(static=True)

    def __call__(self, key):
        return self.wrapper(self.family(key), self.argument)


def cases(num_tasks, quick, only=None):
    """(family's name, variant, family, horizon, number of tasks)."""
    for name in _plugins.names("tasks"):
        if only and name not in only:
            continue
        module = _plugins.get("tasks", name)
        make, horizon = functools.partial(module.family, **SMALLER.get(name, {})), module.HORIZON
        long = make() if name not in TINY else module.family(**TINY[name])
        found = [
            ("as it is", make(), horizon),
            ("x 1e6", Wrapped(make(), Scaled, 1e6), horizon),
            ("NaN", Wrapped(make(), Poisoned, 0.05), horizon),
            *(
                [("ReLU", make(activation="relu"), horizon)]
                if "activation" in inspect.signature(module.family).parameters
                else []
            ),
            ("long", long, LONG // 10 if quick else LONG),
        ]
        for variant, family, horizon in found:
            fit = int((WORK / 60 if quick else WORK) / (count_params(family) * horizon))
            if fit >= MIN_TASKS:
                yield name, variant, family, horizon, min(num_tasks, fit)
            else:
                print(
                    f"{name:12}{variant:10}left out: {count_params(family)} parameters for {horizon} steps", flush=True
                )


def count_params(family):
    key = jax.random.key(0)
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter_eval_shape(lambda: family(key).init(key))))


class WithoutValueFn(l2o.AbstractLearnedOptimizer):
    """A guarded rule that is told the loss, but not how to evaluate it elsewhere."""

    guarded: l2o.Guarded
    uses_value = True

    def init(self, params):
        return self.guarded.init(params)

    def update(self, updates, state, params=None, *, value=None, **extra):
        return self.guarded.update(updates, state, params, value=value)


@eqx.filter_jit
def _run(optimizer, family, keys, horizon, batch_size):
    def one(key):
        task, state, batch_key = l2o.begin(family, optimizer, key)
        state, losses = l2o.unroll(task, optimizer, state, batch_key, length=horizon + 1)
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)]))
        window = max(1, horizon // 10)
        result = {"first": losses[0], "final": jnp.mean(losses[-window:]), "finite": finite & jnp.isfinite(losses[-1])}
        if isinstance(optimizer, l2o.Guarded | WithoutValueFn):
            for name in ("handed_over", "num_raced", "num_skipped"):
                result[name] = getattr(state.opt_state, name)
        return result

    return jax.lax.map(one, keys, batch_size=batch_size)


def run(optimizer, family, horizon, num_tasks, seed=0):
    """First and final loss of every task, whether it ended finite, and the guard's counts."""
    keys = jax.random.split(jax.random.key(seed), num_tasks)
    batch_size = num_tasks if count_params(family) < 1000 else min(4, num_tasks)
    results = _run(optimizer, family, keys, horizon, batch_size)
    return {name: np.asarray(values) for name, values in results.items()}


def row(results, fallback, bare=None):
    """The numbers of a line of the table."""
    limit = 1.1 * fallback["final"] + FLOOR * np.abs(fallback["first"])  # losses of the families are positive
    with np.errstate(all="ignore"):
        return {
            "non-finite": int(np.sum(~results["finite"])),
            "within": np.mean(results["final"] <= limit),
            "better": np.mean(results["final"] < fallback["final"]),
            "over": np.mean(results["handed_over"]),
            "ratio": np.median(results["final"] / fallback["final"]),
            "to bare": np.nan if bare is None else np.median(results["final"] / bare["final"]),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks and steps: one to two minutes")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--only", nargs="+", metavar="FAMILY")
    parser.add_argument("--alone", action="store_true", help="without races, as where no `value_fn` is passed")
    arguments = parser.parse_args()
    num_tasks = arguments.tasks or (20 if arguments.quick else 200)
    l2o.use_all_cores()
    print(
        f"{'family':12}{'variant':10}{'steps':>6}{'tasks':>6}  {'learned':16}{'non-finite':>10}{'within':>8}{'better':>8}"
        f"{'over':>7}{'raced':>7}{'ratio':>9}{'to bare':>9}{'s':>6}"
    )
    adam = optax.apply_if_finite(optax.adam(1e-3), max_consecutive_errors=LONG)

    def lines(case, device):
        """The lines of a case, one for each shipped optimizer, and whether all are within the bar."""
        name, variant, family, horizon, size = case
        found = []
        with jax.default_device(device):
            fallback = run(adam, family, horizon, size)
            for learned_name in l2o.pretrained.names():
                start = time.perf_counter()
                learned = l2o.load(learned_name)
                guarded = l2o.Guarded(learned)
                results = run(WithoutValueFn(guarded) if arguments.alone else guarded, family, horizon, size)
                bare = run(learned, family, horizon, size) if variant == "as it is" and not arguments.quick else None
                line = row(results, fallback, bare)
                ok = line["non-finite"] == 0 and line["within"] >= BAR
                raced = np.mean(results["num_raced"]) / (horizon + 1)
                text = (
                    f"{name:12}{variant:10}{horizon:6}{size:6}  {learned_name:16}{line['non-finite']:10}"
                    f"{line['within']:8.1%}{line['better']:8.0%}{line['over']:7.0%}{raced:7.0%}{line['ratio']:9.2g}"
                    f"{line['to bare']:9.2g}{time.perf_counter() - start:6.0f}  {'PASS' if ok else 'FAIL'}"
                )
                found.append((ok, text))
        return found

    # A scan runs on one core: each core takes the next case when it is free.
    free = queue.SimpleQueue()
    for device in jax.devices():
        free.put(device)

    def on_a_free_device(case):
        device = free.get()
        try:
            return lines(case, device)
        finally:
            free.put(device)

    passed = True
    with ThreadPoolExecutor(len(jax.devices())) as pool:
        for found in pool.map(on_a_free_device, cases(num_tasks, arguments.quick, arguments.only)):
            for ok, text in found:
                passed &= ok
                print(text, flush=True)
    verdict = "PASS" if passed else "FAIL"
    print(f"Bar: no run ends non-finite, and {BAR:.0%} of each row are within 10 % of the fallback: {verdict}")


if __name__ == "__main__":
    main()
