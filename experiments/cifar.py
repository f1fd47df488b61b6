"""CIFAR-10 and its subsets (Andrychowicz et al. 2016, section 3.3): python experiments/cifar.py --folder runs/cifar

Two LSTMs, one for the convolutional and one for the dense parameters, against one LSTM for all and the paper's baselines, on the
paper's net (16-16-16 channels, 32 dense units, batch norm, minibatch 128) for 1,000 steps. On CIFAR-5 and CIFAR-2 beside them
"LSTM-sub", two LSTMs meta-trained on the labels held out there (5 to 9, and 2 to 9).

The net is too slow on CPUs to meta-train on (90 ms a gradient), so optimizers are taught on a small one: images averaged to 8 x 8
pixels, 8-8 channels, 16 dense units, minibatch 64, with a gradient in 1 ms. CPU times are of one core. Stages, each skipped
where its file is there:

1. imitate: the LSTMs learn to copy a hand-tuned Adam whose rate falls as 1 / (1 + t / 300), by back-propagation through up to
   1,000 steps. For that the gradients of some coordinates are recorded over whole runs, the teacher's and then the student's
   own; a coordinatewise rule needs no more. Two CPU-minutes for each of the four.
2. train: truncated BPTT on the small net from there, coordinates sampled, the average of the meta-parameters validated and the
   best kept, the imitation included. Resumable; ten CPU-minutes for each. (So far higher rates made it worse: LOG.md.)
3. measure: compared on the paper's panels (`l2o.suites.paper`), baselines tuned on other keys. Resumable.

    python experiments/cifar.py --quick                     # two minutes, on the MNIST sample; publishes nothing
    python experiments/cifar.py --stage measure --net small # 20 seeds on the small net; five CPU-minutes for each panel
    python experiments/cifar.py --num-tasks 20              # everything; measuring takes six CPU-hours for each panel

Needs the full CIFAR-10 (see docs/data.md).
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import _publish
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import l2o
from l2o import comparison
from l2o.architectures import lstm
from l2o.estimators.bptt import BPTT
from l2o.suites import paper
from l2o.tasks import convnet

SUBSETS = {"cifar10": None, "cifar5": (0, 1, 2, 3, 4), "cifar2": (0, 1)}
# Name: the labels it is meta-trained on, whether it is two LSTMs, and the panels that it is measured on.
OPTIMIZERS = {
    "two LSTMs": (None, True, ("cifar10", "cifar5", "cifar2")),
    "one LSTM": (None, False, ("cifar10",)),
    "LSTM-sub of CIFAR-5": ((5, 6, 7, 8, 9), True, ("cifar5",)),
    "LSTM-sub of CIFAR-2": ((2, 3, 4, 5, 6, 7, 8, 9), True, ("cifar2",)),
}
# The teacher's first rate, the best of 40 random settings on the small net at step 1,000 (LOG.md). Output scales to match.
RATES = {"conv": 0.033, "dense": 0.0108}
SCALES = {"conv": 0.05, "dense": 0.02}


class Size(NamedTuple):
    """How much of everything."""

    net: dict[str, Any]  # that optimizers are taught on
    horizon: int
    truncation: int
    fits: tuple[tuple[int, int, float], ...]  # meta-steps, length, rate: of imitation, the first on the teacher's runs
    num_coordinates: int  # recorded of each kind
    num_steps: int  # of meta-training


FULL = Size(
    {"data": "cifar10", "downscale": 4, "channels": (8, 8), "dense": (16,), "batch_size": 64, "outer_batch_size": 128},
    1000,
    20,
    ((400, 100, 5e-3), (150, 500, 3e-3), (80, 500, 2e-3), (80, 500, 2e-3), (80, 1000, 2e-3)),
    700,
    1500,
)
QUICK = Size(
    {"data": "mnist_sample", "downscale": 4, "channels": (4,), "dense": (8,), "batch_size": 16, "outer_batch_size": 16},
    40,
    20,
    ((10, 40, 5e-3), (5, 40, 3e-3), (5, 40, 2e-3)),
    50,
    4,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--stage", choices=["imitate", "train", "measure"], help="only this stage")
    parser.add_argument("--only", choices=OPTIMIZERS, help="imitate and train only this one")
    parser.add_argument("--panel", choices=SUBSETS, help="measure only this one")
    parser.add_argument("--net", choices=["paper", "small"], default="paper", help="to measure on")
    parser.add_argument("--num-tasks", type=int, default=20)
    parser.add_argument("--tune-tasks", type=int, default=3)
    parser.add_argument("--num-trials", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    if arguments.quick:  # one of everything: compiling is what takes time
        arguments.only, arguments.panel, arguments.cores = "two LSTMs", "cifar10", 1
    l2o.use_all_cores(arguments.cores)
    size = QUICK if arguments.quick else FULL
    key = jax.random.key(arguments.seed)
    folder = arguments.folder / "quick" if arguments.quick else arguments.folder
    stages = [arguments.stage] if arguments.stage else ["imitate", "train", "measure"]
    for i, (name, (labels, pair, _)) in enumerate(OPTIMIZERS.items()):
        if arguments.only not in (None, name):
            continue
        keys = jax.random.split(jax.random.fold_in(key, i), 3)
        family = convnet.family(**size.net, labels=labels)
        if "imitate" in stages and not saved(folder, name, "imitated").exists():
            optimizer = imitate(student(pair, keys[0]), family, size, keys[1])
            l2o.pretrained.save(saved(folder, name, "imitated"), optimizer, recipe=recipe(arguments, size, labels))
        if "train" in stages and not saved(folder, name, "trained").exists():
            train(folder, name, family, size, keys[2], recipe(arguments, size, labels))
    if "measure" in stages:
        for panel in SUBSETS:
            if arguments.panel in (None, panel):
                measure(folder, panel, arguments, jax.random.fold_in(key, 2**20))


def saved(folder, name, stage):
    return folder / f"{name.lower().replace(' ', '-')}-{stage}.safetensors"


def student(pair, key):
    if not pair:
        return lstm.build(key, preprocessing=7.0, output_scale=SCALES["conv"])
    keys = jax.random.split(key, len(SCALES))
    return l2o.Partitioned(
        {
            name: lstm.build(k, preprocessing=7.0, output_scale=scale)
            for k, (name, scale) in zip(keys, SCALES.items(), strict=True)
        }
    )


def teacher(name):
    return optax.adam(lambda step: RATES[name] / (1 + step / 300), b1=0.7, b2=0.9)


def imitate(optimizer, family, size, key):
    """The student after all fits; from the third on, each has one more run of the student's own among its data."""
    teachers = optax.partition({name: teacher(name) for name in RATES}, lambda params: {name: name for name in params})
    recorded = [record(teachers, family, jax.random.fold_in(key, i), size) for i in range(2)]
    for i, (num_steps, length, rate) in enumerate(size.fits):
        if i > 1:
            own = record(optimizer, family, jax.random.fold_in(key, i), size)
            recorded += [own] if all(np.isfinite(g).all() for g in own.values()) else []
        optimizer, error = fit(optimizer, recorded, num_steps, length, rate, seed=i)
        print(f"imitation, {length} steps: relative squared error {error:.3f}", flush=True)
    return optimizer


def record(optimizer, family, key, size):
    """Gradients [horizon, num_coordinates] of each kind of parameter in one run: half from all coordinates, half by leaf."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    leaves = {
        name: [leaf.size for leaf in jax.tree.leaves(part)]
        for name, part in jax.eval_shape(lambda: family(key).init(key)).items()
    }
    index = {}
    for name, sizes in leaves.items():  # small leaves, batch norms and biases, matter as much as large ones
        half, starts = size.num_coordinates // 2, np.cumsum([0, *sizes])
        leaf = rng.integers(0, len(sizes), half)
        by_leaf = starts[leaf] + rng.integers(0, np.asarray(sizes)[leaf])
        index[name] = jnp.asarray(np.concatenate([rng.integers(0, starts[-1], half), by_leaf]))
    return jax.tree.map(np.asarray, _record(optimizer, family, key, index, size.horizon))


@eqx.filter_jit
def _record(optimizer, family, key, index, length):
    task, start, batch_key = l2o.begin(family, optimizer, key)

    def step(state, t):
        params, opt_state = state
        gradient = jax.grad(task.loss)(params, jax.random.fold_in(batch_key, t))
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        taken = {name: ravel_pytree(gradient[name])[0][index[name]] for name in index}
        return (optax.apply_updates(params, updates), opt_state), taken

    return jax.lax.scan(step, (start.params, start.opt_state), jnp.arange(length))[1]


def fit(optimizer, recorded, num_steps, length, rate, *, seed):
    """Descends the relative squared error of the updates over the first `length` steps of random recorded coordinates."""
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, num_steps, 0.05)))
    rng, errors = np.random.default_rng(seed), []
    state = rule.init(eqx.filter(optimizer, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(optimizer, state, gradients):
        error, gradient = eqx.filter_value_and_grad(imitation_error)(optimizer, gradients)
        updates, state = rule.update(gradient, state)
        return eqx.apply_updates(optimizer, updates), state, error

    for _ in range(num_steps):
        run = recorded[rng.integers(len(recorded))]
        num = 128 if length <= 100 else 64
        gradients = {n: jnp.asarray(g[:length, rng.integers(g.shape[1], size=num)]) for n, g in run.items()}
        optimizer, state, error = step(optimizer, state, gradients)
        errors.append(float(error))
    return optimizer, np.mean(errors[-20:])


def imitation_error(optimizer, gradients):
    """Mean over stretches of ten steps, so that late, small updates count as much as early ones; and over kinds."""
    errors = []
    for name, g in gradients.items():
        rule, copied = (optimizer.parts[name] if isinstance(optimizer, l2o.Partitioned) else optimizer), teacher(name)
        _, wanted = jax.lax.scan(lambda s, x, t=copied: t.update(x, s)[::-1], copied.init(g[0]), g)
        own = jax.checkpoint(lambda s, x, r=rule: r.update_coordinates(x, s, None)[::-1])
        _, updates = jax.lax.scan(own, rule.init_coordinates(g.shape[1]), g)
        distance, scale = (jnp.sum(x**2, axis=1).reshape(-1, 10).sum(axis=1) for x in (updates - wanted, wanted))
        errors.append(jnp.mean(distance / (scale + 1e-12)))
    return sum(errors) / len(errors)


class Uneven(l2o.AbstractInnerProblem):
    """Episodes of random lengths up to the horizon's, so that those that are advanced together are of different ages."""

    problem: l2o.InnerTraining

    @property
    def truncation(self):
        return self.problem.truncation

    @property
    def horizon(self):
        return self.problem.horizon

    def init(self, optimizer, key):
        return self.problem.init(optimizer, key)

    def advance(self, optimizer, state):
        return self.problem.advance(optimizer, state)

    def finished(self, state):
        num = jax.random.randint(jax.random.fold_in(state.key, 4), (), 1, self.horizon // self.truncation + 1)
        return state.inner.step >= num * self.truncation


def train(folder, name, family, size, key, recipe):
    problem = l2o.InnerTraining(family, size.horizon, size.truncation, split="outer", meta_gradient=l2o.Sampled(0.2))
    run = folder / saved(folder, name, "train").stem
    result = l2o.meta_train(
        l2o.load(saved(folder, name, "imitated")),
        BPTT(Uneven(problem), num_tasks=4, batch_size=1),
        l2o.default_outer_optimizer(optax.cosine_decay_schedule(2e-5, size.num_steps, 0.1), max_norm=1.0),
        num_steps=size.num_steps,
        key=key,
        validation=l2o.Validation(family, size.horizon, num_tasks=4, every=max(2, size.num_steps // 15), batch_size=1),
        average=0.98,
        folder=run,
        resume=(run / "checkpoints").exists(),
        on_step=lambda row: "validation_loss" in row and print(name, row, flush=True),
    )
    measured = {
        "num_episodes": result.num_episodes,
        "num_inner_steps": result.num_inner_steps,
        "best_validation_loss": result.best_score,
        "seconds": round(result.seconds),
    }
    l2o.pretrained.save(saved(folder, name, "trained"), result.optimizer, recipe={**recipe, **measured})


def recipe(arguments, size, labels):
    return {
        "task": "convnet",
        "task_arguments": {**size.net, "labels": labels},
        "horizon": size.horizon,
        "truncation": size.truncation,
        "seed": arguments.seed,
        "command": "python experiments/cifar.py",
    }


def measure(folder, name, arguments, key):
    panel = paper.panels(arguments.quick)[name]
    if arguments.net == "small" and not arguments.quick:
        family = convnet.family(**FULL.net, labels=SUBSETS[name])
        source = f"{panel.source}; here 8 x 8 pixels, 8-8 channels, 16 dense units, minibatch 64"
        panel = panel._replace(make=lambda: family, source=source)
    trained = {n: saved(folder, n, "trained") for n, (_, _, panels) in OPTIMIZERS.items() if name in panels}
    results = folder / f"{arguments.net}-{name}"
    comparison.compare(
        {name: panel},
        {n: path for n, path in trained.items() if path.exists()} | {n: n for n in l2o.baselines.PAPER_BASELINES},
        key=key,
        num_tasks=2 if arguments.quick else arguments.num_tasks,
        tune_tasks=2 if arguments.quick else arguments.tune_tasks,
        search=l2o.Search(3 if arguments.quick else arguments.num_trials, rates=(1e-3, 10.0)),
        folder=results,
        resume=results.exists(),
        on_done=lambda panel, optimizer, record: print(panel, optimizer, f"{record.seconds:.0f} s", flush=True),
    )
    _publish.publish(results, f"{name}-{arguments.net}", quick=arguments.quick)


if __name__ == "__main__":
    main()
