"""Meta-trains an optimizer for neural art and measures it: python experiments/style.py --folder runs/style

Andrychowicz et al. 2016, section 3.4: the pixels of an image under the features of VGG-16, 1,800 contents and one style at
64 x 64 pixels, 128 steps, unrolled by 32; tested on 100 other contents, then at 128 x 128 pixels in another style. Stages:

1. train: from the shipped `lstm-mnist`, truncated BPTT on windows of 32 x 32 pixels, cut at random from the training pictures
   (a pixel's gradient is as large as in the whole picture, and costs a quarter), dimmed to between a quarter and the whole, as
   the gradients of larger pictures are. The average of the meta-parameters that is best on validation windows is kept.
2. measure: `suites.paper`'s panels style_64 and style_128, and windows_32, a cheaper one of ours, on draws of the test
   pictures. SGD, NAG, RMSprop and Adam are tuned on other draws; L-BFGS (optax's, with its line search, several evaluations a
   step) has nothing to tune.
3. pictures: what each optimizer has painted after 0, 16, 32, 64 and 128 steps, at 64 x 64 pixels.

Needs the pictures, the paintings and VGG-16 (docs/style.md). Each stage goes on where it was interrupted, cell by cell. A
gradient takes 40 to 50 ms at 64 x 64 pixels on one core and four times that at 128 x 128: `--num-tasks 100 --tune-tasks 10`, the
default, is eight core-hours for style_64 and a day and a half for style_128; fewer draws and `--trials` cost less, and all
tables say how many there were. `--quick` is the same in two minutes, on drawn shapes and random features.
"""

import argparse
import functools
import itertools
from pathlib import Path

import _publish
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Float

import l2o
from l2o import comparison, results
from l2o.estimators.bptt import BPTT
from l2o.suites import paper
from l2o.tasks import style

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HORIZON, TRUNCATION = 128, 32
SCHEDULE = 400  # meta-steps over which the outer rate decays; LOG.md: the run told of there was stopped at 150
RATES = (3e-3, 1.0)  # below and above the best of every baseline
MARKS = (0, 16, 32, 64, 128)  # steps after which pictures are shown
PICTURES = {"data": "content_64", "style": "starry_night", "size": 64, "features": "vgg16"}


class Dimmed(l2o.AbstractTask):
    """A task with its loss, and so its gradients, multiplied by a number."""

    task: l2o.AbstractTask
    factor: Float[Array, ""]

    def init(self, key):
        return self.task.init(key)

    def loss(self, params, key, *, split="train"):
        return self.factor * self.task.loss(params, key, split=split)


class DimmedFamily(eqx.Module):
    """Tasks dimmed by factors from `lowest` to 1, uniform in the logarithm."""

    family: l2o.TaskFamily
    lowest: float

    def __call__(self, key):
        factor = self.lowest ** jax.random.uniform(jax.random.fold_in(key, 2))
        return Dimmed(self.family(key), factor)


def train(arguments, key):
    if arguments.quick:
        windows = {split: style.family(crop=8) for split in ("train", "val")}
    else:
        windows = {split: style.family(split=split, crop=32, **PICTURES) for split in ("train", "val")}
    weights = jnp.linspace(1.0, 10.0, HORIZON)  # late steps count more
    problem = l2o.InnerTraining(
        DimmedFamily(windows["train"], 0.25),
        HORIZON,
        TRUNCATION,
        step_weights=weights / jnp.mean(weights),
        meta_gradient=l2o.Sampled(0.25),
    )
    folder = arguments.folder / "train"
    result = l2o.meta_train(
        l2o.load("lstm-mnist"),
        BPTT(problem, num_tasks=2),
        l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-3, SCHEDULE, 0.1)),
        num_steps=arguments.num_steps,
        key=key,
        validation=l2o.Validation(windows["val"], HORIZON, num_tasks=4, every=25),
        average=0.97,
        folder=folder,
        resume=(folder / "checkpoints").exists(),
        checkpoint_every=25,
        on_step=lambda row: print(row, flush=True),
    )
    recipe = {
        "task": "style",
        "task_arguments": {} if arguments.quick else {**PICTURES, "crop": 32},
        "horizon": HORIZON,
        "truncation": TRUNCATION,
        "stages": [
            "lstm-mnist",
            f"bptt, 2 tasks, Adam from 1e-3 decayed over {SCHEDULE}, {arguments.num_steps} meta-steps, best average kept",
        ],
        "estimator": "bptt, 25 % of coordinates sampled, weights 1 to 10, loss times 1/4 to 1",
        "num_steps": result.num_steps,
        "num_episodes": result.num_episodes,
        "num_skipped": result.num_skipped,
        "num_diverged": result.num_diverged,
        "average": 0.97,
        "best_validation_loss": result.best_score,
        "seed": arguments.seed,
        "seconds": round(result.seconds),
        "machine": "CPU, one core shared with other work",
        "command": "python experiments/style.py",
    }
    l2o.pretrained.save(arguments.folder / "trained.safetensors", result.optimizer, recipe=recipe)


PANELS = ("style_64", "style_128", "windows_32")


def measure(arguments, key):
    panels = paper.panels(arguments.quick)
    # Four tasks at once: Winograd's matrix products are faster when they are larger.
    if arguments.quick:
        found = {"style_64": panels["style_64"]}
    else:
        windows = functools.partial(style.family, split="test", crop=32, **PICTURES)
        source = "ours: windows of 32 x 32 pixels of the test pictures of style_64"
        found = {
            "style_64": panels["style_64"]._replace(batch_size=4),
            "style_128": panels["style_128"]._replace(batch_size=2),
            "windows_32": l2o.Panel(
                windows, HORIZON, HORIZON, source, batch_size=4, data=("content_64", "styles", "vgg16")
            ),
        }
    learned = {"lstm-mnist": "lstm-mnist"}
    if (arguments.folder / "trained.safetensors").exists():
        learned = {"lstm-style": l2o.load(arguments.folder / "trained.safetensors"), **learned}
    for name in [arguments.panel] if arguments.panel else [*found]:
        folder = arguments.folder / name
        comparison.compare(
            {name: found[name]},
            {**learned, **{n: n for n in (*l2o.baselines.PAPER_BASELINES, "lbfgs")}},
            key=key,
            num_tasks=4 if arguments.quick else arguments.num_tasks,
            tune_tasks=2 if arguments.quick else arguments.tune_tasks,
            search=l2o.Search(arguments.trials, rates=RATES),
            measure_costs=arguments.costs,
            folder=folder,
            resume=(folder / "comparison.json").exists(),
            on_done=lambda panel, optimizer, record: print(
                f"{panel}: {optimizer}, {record.seconds:.0f} s, loss {record.curves.losses[:, -1].mean():.4g}",
                flush=True,
            ),
        )
        _publish.publish(folder, name, quick=arguments.quick)
        for sheet in _publish.RESULTS.glob(f"{name}-*images*"):
            sheet.unlink()  # the photographs may not be passed on


def pictures(arguments, key):
    """Munch's Scream in the style of van Gogh's Starry Night, both in the public domain; the test photographs are not."""
    if arguments.quick:
        task = style.between(style._synthetic(key, 16), style._synthetic_style(16), features="random")
        painting = style._synthetic_style(16)
    else:
        photo, painting = (l2o.data.load_style(name, 64) for name in ("scream", "starry_night"))
        task = style.between(photo, painting)
    found = results.load(arguments.folder / "style_64").records["style_64"]
    rows = {}
    for name, record in found.items():
        if record.learned:
            optimizer = l2o.load(arguments.folder / "trained.safetensors" if name == "lstm-style" else name)
        else:
            optimizer = l2o.baselines.get(name).make(record.tuned and record.tuned.value.rate)
        state, rows[name] = l2o.start(task, optimizer, key), []
        for length in (0, *(after - before for before, after in itertools.pairwise(MARKS))):
            if length:
                state, _ = _unroll(task, optimizer, state, key, length)
            rows[name].append((np.asarray(task.image(state.params)), float(_loss(task, state.params))))
    figure, axes = plt.subplots(
        len(rows),
        2 + len(MARKS),
        figsize=(1.35 * (2 + len(MARKS)), 1.5 * len(rows)),
        layout="constrained",
        squeeze=False,
    )
    for line, (name, found) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=8)
        shown = [(task.content, "content"), (painting, "style")]
        shown += [(x, f"step {n}: {loss:.3g}") for n, (x, loss) in zip(MARKS, found, strict=True)]
        for axis, (image, title) in zip(line, shown, strict=True):
            axis.imshow(image)
            axis.set_title(title, fontsize=7)
            axis.set(xticks=[], yticks=[])
    folder = arguments.folder if arguments.quick else _publish.RESULTS
    figure.savefig(folder / "style-pictures.png", dpi=110)
    plt.close(figure)
    print(f"Pictures: {folder / 'style-pictures.png'}")


@eqx.filter_jit
def _unroll(task, optimizer, state, key, length):
    return l2o.unroll(task, optimizer, state, key, length=length)


@eqx.filter_jit
def _loss(task, params):
    return task.loss(params, None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/style"))
    parser.add_argument("--stage", choices=["train", "measure", "pictures"], help="only this stage")
    parser.add_argument("--panel", choices=PANELS, help="measure only this panel")
    parser.add_argument("--num-tasks", type=int, default=100, help="draws of the test pictures")
    parser.add_argument("--tune-tasks", type=int, default=10, help="other draws, to tune the baselines on")
    parser.add_argument("--trials", type=int, default=11, help="rates tried for each baseline")
    parser.add_argument("--no-costs", dest="costs", action="store_false", help="do not time a step of each optimizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=150, help="meta-steps")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.num_steps, arguments.trials, arguments.costs = 4, 3, False
    train_key, test_key, picture_key = jax.random.split(jax.random.key(arguments.seed), 3)
    stages = [arguments.stage] if arguments.stage else ["train", "measure", "pictures"]
    if "train" in stages:
        train(arguments, train_key)
    if "measure" in stages:
        measure(arguments, test_key)
    if "pictures" in stages:
        pictures(arguments, picture_key)


if __name__ == "__main__":
    main()
