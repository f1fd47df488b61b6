"""Meta-trains the shipped `lstm-mnist` and measures it: python experiments/train_mnist.py --folder runs/lstm-mnist

The 784-20-10 sigmoid perceptron on MNIST, minibatch 128 (Andrychowicz et al. 2016, section 3.2). Stages, each a resumable run
in a subfolder:

1. imitate: the LSTM (with the constants of the authors' code: k = 5, output x 0.01) learns to copy a hand-tuned Adam on a
   perceptron of 5 hidden units. LOG.md: without such a start, an hour of meta-training ends behind the baselines.
2. anneal: it learns to copy a better teacher, `_teacher.momentum`: warmed up, annealed, with Nesterov momentum and a milder
   normalisation than Adam's. Its constants are the best of a random search of 700 settings; `search_teacher.py` finds such.
3. train: back-propagation through 100 steps at a time, 200 in all, *with* second derivatives (LOG.md: here the gradient
   without them points the other way), late steps weighted up, the meta-loss on independent batches of 1,024, meta-parameters
   averaged; best by validation kept.
4. measure: 40 fresh seeds beside the paper's baselines, each tuned on other seeds. experiments/mnist.py measures it elsewhere.

Stages 2 and 3 run on a stand-in at a quarter of the cost, `Blurred`: exactly the real problem, on images blurred over 2 x 2
pixels.

Needs the full MNIST (see docs/data.md). About an hour on two cores; `--quick` is the same in two minutes, on the shipped sample,
and ships nothing. Run again to go on after an interruption.
"""

import argparse
import dataclasses
import functools
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _teacher import annealed, momentum

import l2o
from l2o import report
from l2o.evaluation import analysis, comparison
from l2o.meta.estimators.bptt import BPTT
from l2o.meta.imitation import Imitation
from l2o.optimizers import lstm
from l2o.tasks import mlp

SHIPPED = Path(l2o.__file__).parent / "io" / "pretrained" / "lstm-mnist.safetensors"
ADAM = optax.adam(0.031, b1=0.77, b2=0.72, eps=8e-5)
SCHEDULE = {"rate": 0.460, "warmup": 5.64, "num_steps": 95.1, "exponent": 0.266, "least": 0.264}
CONSTANTS = {"b1": 0.793, "b2": 0.99947, "eps": 4.6e-6, "power": 0.302}
ANNEALED = momentum(annealed(**SCHEDULE), **CONSTANTS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def damped(x, factor):
    """`x`; its gradient is divided by `factor`."""
    return x


damped.defvjp(lambda x, factor: (x, None), lambda factor, _, g: (g / factor,))


class Blurred(mlp.MLP):
    """A perceptron on images blurred over squares of `factor` pixels, one weight standing for the `factor` weights of a square.

    Those weights see the same inputs, so the optimizer, which is coordinatewise, would move them alike, by what it makes of
    the gradient of one of them. So inputs are summed over the square, and the gradient of its weight is that of one pixel.
    (Not on other splits: the meta-gradient needs their gradient as it is.)
    """

    factor: int = eqx.field(static=True, default=1)

    def init(self, key):
        params = super().init(key)
        first = params["hidden"][0]
        first["w"] = first["w"] / math.sqrt(self.factor)  # the mean of `factor` weights
        return params

    def loss(self, params, key, *, split="train"):
        if split == "train":
            first, *others = params["hidden"]
            params = {**params, "hidden": [{**first, "w": damped(first["w"], self.factor)}, *others]}
        return super().loss(params, key, split=split)


def blurred(family, side=2):
    """The stand-in for an `mlp.family` of square images."""
    task = family.task

    def sums(x):
        pixels = math.isqrt(x.shape[1])
        squares = np.asarray(x, np.uint16).reshape(len(x), pixels // side, side, pixels // side, side)
        return jnp.asarray(squares.sum((2, 4), dtype=np.uint16).reshape(len(x), -1))

    x_train, x_test = sums(task.x_train), sums(task.x_test)
    fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    fields |= {"x_train": x_train, "x_test": x_test, "sizes": (x_train.shape[1], *task.sizes[1:])}
    return dataclasses.replace(family, task=Blurred(**fields, factor=side**2))


STAGES = ["imitate", "anneal", "train", "measure"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/lstm-mnist"))
    parser.add_argument("--stage", choices=STAGES, help="only this stage")
    parser.add_argument("--cores", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imitation-steps", type=int, default=1500)
    parser.add_argument("--anneal-steps", type=int, default=1000)
    parser.add_argument("--num-steps", type=int, default=800)
    arguments = parser.parse_args()
    l2o.use_all_cores(arguments.cores)
    data = "mnist_sample" if arguments.quick else "mnist"
    if arguments.quick:
        arguments.imitation_steps, arguments.anneal_steps, arguments.num_steps = 60, 20, 5
    family = mlp.family(data=data)
    cheap = blurred(family)
    keys = jax.random.split(jax.random.key(arguments.seed), 5)
    stages = [arguments.stage] if arguments.stage else STAGES
    # The last tenth of 200 steps is judged, and what leads there shows in it.
    validation = l2o.Validation(cheap, 200, 2 if arguments.quick else 16, every=50, batch_size=1)
    weights = {stage: arguments.folder / f"{stage}.safetensors" for stage in STAGES[:3]}

    if "imitate" in stages:
        problem = Imitation(mlp.family(data=data, hidden=(5,)), ADAM, horizon=100, truncation=20)
        result = run(
            lstm.build(keys[0], preset="code"),
            BPTT(problem, num_tasks=2, batch_size=1),
            l2o.default_outer_optimizer(cosine(5e-3, arguments.imitation_steps), max_norm=1.0),
            num_steps=arguments.imitation_steps,
            key=keys[1],
            folder=arguments.folder / "imitate",
        )
        l2o.pretrained.save(weights["imitate"], result.last, recipe={"seconds": result.seconds})

    if "anneal" in stages:
        before = l2o.pretrained.header(weights["imitate"])["recipe"]
        result = run(
            l2o.load(weights["imitate"]),
            BPTT(Imitation(cheap, ANNEALED, horizon=200, truncation=40), num_tasks=2, batch_size=1),
            l2o.default_outer_optimizer(cosine(4e-3, arguments.anneal_steps), max_norm=1.0),
            num_steps=arguments.anneal_steps,
            key=keys[2],
            average=0.98,
            folder=arguments.folder / "anneal",
        )
        seconds = before["seconds"] + result.seconds
        l2o.pretrained.save(weights["anneal"], result.last, recipe={"seconds": seconds})

    if "train" in stages:
        before = l2o.pretrained.header(weights["anneal"])["recipe"]
        problem = two_hundred_steps(cheap, jnp.tile(jnp.linspace(1.0, 10.0, 100), 2))
        result = run(
            l2o.load(weights["anneal"]),
            BPTT(problem, num_tasks=2, batch_size=1),
            l2o.default_outer_optimizer(
                optax.join_schedules([lambda step: 6e-5, optax.cosine_decay_schedule(2e-4, 1000, 0.05)], [300]),
                max_norm=0.5,
            ),
            num_steps=arguments.num_steps,
            key=keys[3],
            validation=validation,
            average=0.96,
            folder=arguments.folder / "train",
        )
        recipe = {
            **facts(result, data, before["seconds"]),
            "stages": [
                f"imitation of Adam(0.031, b1=0.77, b2=0.72, eps=8e-5) on 784-5-10, {arguments.imitation_steps} meta-steps",
                f"imitation of an annealed momentum rule, {arguments.anneal_steps} meta-steps",
                f"bptt, 2 tasks, Adam, averaged meta-parameters, {arguments.num_steps} meta-steps, best kept",
            ],
            "estimator": "bptt with second derivatives, meta-loss on independent batches of 1024, weights 1 to 10",
            "best_validation_loss": result.best_score,
            "seed": arguments.seed,
            "command": "python experiments/train_mnist.py",
        }
        l2o.pretrained.save(weights["train"], result.optimizer, recipe=recipe, family=family)
        if not arguments.quick:
            SHIPPED.write_bytes(weights["train"].read_bytes())

    if "measure" in stages:
        name = "MNIST, 784-20-10"
        source = "Andrychowicz et al. 2016, section 3.2"
        records = comparison.compare(
            {name: l2o.Panel(lambda: family, 100, 200, source, window=10, batch_size=5)},
            {"lstm-mnist": l2o.load(weights["train"]), **{n: n for n in l2o.baselines.PAPER_BASELINES}},
            key=keys[4],
            num_tasks=4 if arguments.quick else 40,
            tune_tasks=4 if arguments.quick else 20,
            search=l2o.Search(9 if arguments.quick else 17, rates=(1e-3, 10.0)),
        ).records
        for row in analysis.rows(records[name], [100, 200], window=10):
            print(row)
        for step in (100, 200):
            print(f"at step {step}:", analysis.ratio_to_best(records[name], "lstm-mnist", step, window=10))
        print(report.figure(records, arguments.folder / "curves.png", window=10))


def two_hundred_steps(family, weights):
    """The inner training run, a hundred steps at a time, with these weights of the steps' losses."""
    return l2o.InnerTraining(
        family,
        horizon=200,
        truncation=100,
        step_weights=weights / jnp.mean(weights),  # late steps of each truncation count more
        split="outer",
        meta_gradient=l2o.SecondOrder(),
    )


def facts(result, data, seconds_before):
    """The part of a recipe that says what `two_hundred_steps` were trained on, and what it took."""
    return {
        "task": "mlp",
        "task_arguments": {"data": data},
        "horizon": 200,
        "truncation": 100,
        "num_episodes": result.num_episodes,
        "num_inner_steps": result.num_inner_steps,
        "num_skipped": result.num_skipped,
        "num_diverged": result.num_diverged,
        "seconds": round(seconds_before + result.seconds),
        "machine": "CPU, one busy core",
    }


def cosine(rate, num_steps):
    return optax.cosine_decay_schedule(rate, num_steps, 0.02)


def run(*positional, folder, **keywords):
    """`meta_train` in a folder, going on where it stopped."""
    resume = (folder / "checkpoints").exists()
    return l2o.meta_train(
        *positional,
        folder=folder,
        resume=resume,
        on_step=lambda row: "validation_loss" in row and print(folder.name, row, flush=True),
        **keywords,
    )


if __name__ == "__main__":
    main()
