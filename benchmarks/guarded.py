"""How a guarded learned optimizer compares with its fallback, on every family and on runs built to break it.

    python benchmarks/guarded.py [--quick] [--tasks 200] [--only FAMILY ...] [--alone] [--resume]
        [--work 2.4e7]

`l2o.Guarded(learned, optax.adam(1e-3))` for every shipped optimizer that takes params of any kind, beside Adam(1e-3) itself,
on the same tasks, starts and minibatches. The variants: the family as it is; its loss times 1e6; gradients that are NaN at a
random 5 % of the steps (Adam skips those too, by `optax.apply_if_finite`, or it would end as NaN itself); ReLU nets; 10,000
steps.

Every family's optimizee is made as small as it can be and still be of that family (`SMALL`; `TINY` for the long runs), so
that 200 tasks of each, or as many as `WORK` allows of the larger ones and of the long runs, fit into half an hour of one core,
half of which goes into compiling. The column says how many there were.

A run is within the bar if its final loss (mean over the last tenth of the steps) is at most 10 % above the fallback's. Losses
that both have brought below a millionth of the first loss are level: there rounding decides, not the optimizer.

Columns: runs that end with a loss or params that are not finite; share within the bar, and share strictly better; share that
handed over; share of the steps that were races, which cost a second gradient; median of the loss relative to the fallback's,
and to the bare learned optimizer's (where that is cheap). The same, without rounding, is written to
benchmarks/results/guarded.csv as it is measured; with `--only`, lines of other families stay, with `--resume` all that are
there of as many tasks. `--quick` writes nothing.

Bar: none ends non-finite, and at least 95 % of each row are within 10 %.
"""

import argparse
import csv
import functools
import inspect
import io
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

import l2o
from l2o.core import plugins
from l2o.io.files import write_whole
from l2o.tasks import landscape

RESULTS = Path(__file__).parent / "results"
BAR = 0.95
FLOOR = 1e-6
LONG = 10_000
# Parameters x steps x tasks of a row: an LSTM optimizer takes 0.6 microseconds for each. What would be more has fewer tasks.
WORK = 2.4e7
MIN_TASKS = 4
# From so many parameters on tasks are run one by one, so that a rule that has handed over is no longer evaluated.
ALONE_FROM = 500
SMALL = {
    "char_rnn": {"hidden": 2, "length": 4, "batch_size": 4},
    "convnet": {"downscale": 4, "channels": (4, 4), "dense": (), "kernel": 3, "batch_size": 16},
    "lasso": {"rows": 10, "dim": 20},
    "mlp": {"hidden": (2,)},
    "resnet": {"downscale": 4, "channels": (2, 4), "batch_size": 16},
    "sparse_recovery": {"rows": 10, "dim": 20},
    "style": {"size": 4},
    "transformer": {"width": 4, "length": 4, "batch_size": 4},
}
TINY = {
    "char_rnn": {"hidden": 1, "length": 4, "batch_size": 4},
    "convnet": {"downscale": 4, "channels": (2,), "dense": (), "kernel": 3, "labels": (0, 1), "batch_size": 16},
    "mlp": {"hidden": (1,), "batch_size": 32},
    "resnet": {"downscale": 4, "channels": (2,), "labels": (0, 1), "batch_size": 16},
    "transformer": {"width": 2, "num_heads": 1, "length": 4, "batch_size": 4},
}


@jax.custom_vjp
def poison(params, bad):
    """The params; their gradient is NaN if `bad`."""
    return params


poison.defvjp(
    lambda params, bad: (params, bad),
    lambda bad, g: (jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), g), None),
)


class Broken(l2o.AbstractTask):
    """A task whose loss is `scale` times as large, and whose gradient is NaN at a random `share` of the steps."""

    task: l2o.AbstractTask
    scale: Float[Array, ""]
    share: Float[Array, ""]

    def init(self, key):
        return self.task.init(key)

    def loss(self, params, key, *, split="train"):
        bad = jax.random.bernoulli(jax.random.fold_in(key, 99), self.share)
        return self.scale * self.task.loss(poison(params, bad), key, split=split)


class BrokenFamily(eqx.Module):
    """`family` with all its tasks broken; one program for all values."""

    family: l2o.TaskFamily
    scale: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=1.0)
    share: Float[Array, ""] = eqx.field(converter=jnp.asarray, default=0.0)

    def __call__(self, key):
        return Broken(self.family(key), self.scale, self.share)


class AnyLandscape(l2o.AbstractTask):
    """One of the test functions of `l2o.tasks.landscape`, in two dimensions."""

    functions: list[l2o.AbstractTask]
    index: Int[Array, ""]

    def init(self, key):
        return jax.lax.switch(self.index, [lambda key, f=f: f.init(key) for f in self.functions], key)

    def loss(self, params, key, *, split="train"):
        return jax.lax.switch(self.index, [lambda params, f=f: f.loss(params, key) for f in self.functions], params)


def any_landscape(key):
    functions = [landscape.family(name=name)(key) for name in landscape.FUNCTIONS]
    return AnyLandscape(functions, jax.random.randint(key, (), 0, len(functions)))


def cases(num_tasks, work, only=None, long=LONG):
    """(family's name, variant, family, horizon, number of tasks), the cheapest first."""
    found = []
    for name in plugins.names("tasks"):
        if only and name not in only:
            continue
        module = plugins.get("tasks", name)
        make = functools.partial(module.family, **SMALL.get(name, {}))
        family = any_landscape if name == "landscape" else make()
        tiny = module.family(**TINY[name]) if name in TINY else family
        found += [
            (name, "as it is", BrokenFamily(family), module.HORIZON),
            (name, "x 1e6", BrokenFamily(family, scale=1e6), module.HORIZON),
            (name, "NaN", BrokenFamily(family, share=0.05), module.HORIZON),
            (name, "long", BrokenFamily(tiny), long),
        ]
        if "activation" in inspect.signature(module.family).parameters:
            found.append((name, "ReLU", BrokenFamily(make(activation="relu")), module.HORIZON))

    def sized(case):
        each = count_params(case[2]) * case[3]
        return each, (*case, min(num_tasks, max(MIN_TASKS, int(work / each))))

    return [case for _, case in sorted(map(sized, found), key=lambda pair: pair[0])]


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
    batch_size = num_tasks if count_params(family) < ALONE_FROM else None
    results = _run(optimizer, family, keys, horizon, batch_size)
    return {name: np.asarray(values) for name, values in results.items()}


def row(results, fallback, bare=None):
    """The numbers of a line of the table."""
    limit = 1.1 * fallback["final"] + FLOOR * np.abs(fallback["first"])  # losses of the families are positive
    with np.errstate(all="ignore"):
        return {
            "non-finite": int(np.sum(~results["finite"])),
            "within": float(np.mean(results["final"] <= limit)),
            "better": float(np.mean(results["final"] < fallback["final"])),
            "handed over": float(np.mean(results["handed_over"])),
            "ratio": float(np.median(results["final"] / fallback["final"])),
            "ratio to bare": np.nan if bare is None else float(np.median(results["final"] / bare["final"])),
        }


class Table:
    """The lines measured: printed, and kept in a CSV file beside those of earlier runs."""

    KEY = ("family", "variant", "optimizer")

    def __init__(self, path):
        self.path = path
        self.lines = {}
        if path is not None and path.exists():
            with path.open(newline="") as file:
                self.lines = {tuple(line[k] for k in self.KEY): line for line in csv.DictReader(file)}
        print(
            f"{'family':16}{'variant':10}{'params':>7}{'steps':>6}{'tasks':>6}  {'learned':16}{'non-finite':>10}{'within':>8}"
            f"{'better':>8}{'over':>7}{'raced':>7}{'ratio':>9}{'to bare':>9}{'s':>6}"
        )

    def num_tasks(self, *key):
        return int(self.lines[key]["tasks"]) if key in self.lines else 0

    def add(self, line):
        print(
            f"{line['family']:16}{line['variant']:10}{line['parameters']:7}{line['steps']:6}{line['tasks']:6}  "
            f"{line['optimizer']:16}{line['non-finite']:10}{line['within']:8.1%}{line['better']:8.0%}"
            f"{line['handed over']:7.0%}{line['raced']:7.0%}{line['ratio']:9.2g}{line['ratio to bare']:9.2g}"
            f"{line['seconds']:6.0f}  {line['bar']}",
            flush=True,
        )
        self.lines[tuple(line[k] for k in self.KEY)] = line
        if self.path is not None:
            text = io.StringIO()
            writer = csv.DictWriter(text, line, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.lines[key] for key in sorted(self.lines))
            self.path.parent.mkdir(exist_ok=True)
            write_whole(self.path, text.getvalue().encode())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tasks and steps: some minutes")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--only", nargs="+", metavar="FAMILY")
    parser.add_argument("--resume", action="store_true", help="keep the lines that there are of as many tasks")
    parser.add_argument("--work", type=float, default=WORK, help="parameters x steps x tasks of a row, at most")
    parser.add_argument("--alone", action="store_true", help="without races, as where no `value_fn` is passed")
    arguments = parser.parse_args()
    num_tasks = arguments.tasks or (20 if arguments.quick else 200)
    l2o.use_all_cores()
    table = Table(None if arguments.quick else RESULTS / ("guarded_alone.csv" if arguments.alone else "guarded.csv"))
    adam = optax.adam(1e-3)  # one for all: a new one would be compiled anew
    alone = optax.apply_if_finite(adam, max_consecutive_errors=LONG)

    def lines(case, device):
        """The lines of a case, one for each shipped optimizer."""
        name, variant, family, horizon, size = case
        found = []
        with jax.default_device(device):
            fallback = run(alone, family, horizon, size)
            for learned_name in l2o.pretrained.names(partitioned=False):
                start = time.perf_counter()
                learned = l2o.load(learned_name)
                guarded = l2o.Guarded(learned, adam)
                results = run(WithoutValueFn(guarded) if arguments.alone else guarded, family, horizon, size)
                cheap = variant == "as it is" and count_params(family) < ALONE_FROM and not arguments.quick
                bare = run(learned, family, horizon, size) if cheap else None
                numbers = row(results, fallback, bare)
                ok = numbers["non-finite"] == 0 and numbers["within"] >= BAR
                found.append(
                    {
                        "family": name,
                        "variant": variant,
                        "optimizer": learned_name,
                        "parameters": count_params(family),
                        "steps": horizon,
                        "tasks": size,
                        **numbers,
                        "raced": float(np.mean(results["num_raced"]) / (horizon + 1)),
                        "seconds": round(time.perf_counter() - start, 1),
                        "bar": "PASS" if ok else "FAIL",
                    }
                )
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

    options = {"work": arguments.work / 60, "long": LONG // 10} if arguments.quick else {"work": arguments.work}
    todo = cases(num_tasks, only=arguments.only, **options)
    if arguments.resume:
        names = l2o.pretrained.names(partitioned=False)
        todo = [case for case in todo if any(table.num_tasks(*case[:2], name) < case[-1] for name in names)]
    with ThreadPoolExecutor(len(jax.devices())) as pool:
        for found in pool.map(on_a_free_device, todo):
            for line in found:
                table.add(line)
    verdict = "PASS" if all(line["bar"] == "PASS" for line in table.lines.values()) else "FAIL"
    print(f"Bar: no run ends non-finite, and {BAR:.0%} of each row are within 10 % of the fallback: {verdict}")


if __name__ == "__main__":
    main()
