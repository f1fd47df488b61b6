"""Meta-trains the shipped `lstm-style`, for neural art, and measures it: python experiments/style.py --folder runs/style

Andrychowicz et al. 2016, section 3.4: the pixels of an image under the features of VGG-16, 1,800 contents and one style at
64 x 64 pixels, 128 steps; tested on 100 other contents, then at 128 x 128 pixels in another style. Stages:

1. imitate: an LSTM learns to copy a hand-designed rule, `TEACHER`, on recorded gradients of whole training pictures
   (`_imitation`). Four minutes of one core.
2. train: back-propagation through all 128 steps, first order, on windows of 32 x 32 pixels, cut at random from the training
   pictures (a pixel's gradient is as large as in the whole picture, and costs a quarter); the last steps count most. The average
   of the meta-parameters that is best on whole validation pictures is kept. Forty minutes. In both stages losses are
   dimmed to between a fifth and the whole; used, the rule is `l2o.Rescaled` to the median of the first gradients it met, for
   the gradients of larger pictures are smaller.
3. measure: `suites.paper`'s panels style_64 and style_128, and strong_64, ours, in which the style weighs ten times as much, on
   each of the test pictures once. SGD, NAG, RMSprop and Adam are tuned on draws of them; L-BFGS (optax's, with its line
   search, several evaluations a step) has nothing to tune. Resumable, an optimizer at a time; published when all of a panel
   are there.
4. beside: the first --num-tasks pictures again, for what the panels lack: `lstm-style` beside the rule that it imitated, the best
   of the four baselines at the rate that the panel's table has, and Adam and NAG with a schedule, tuned by as many trials as
   those (`_baselines`; all pixels are one group). A table of its own.
5. pictures: what each optimizer has painted after 0, 16, 32, 64 and 128 steps, at 64 x 64 pixels.

    python experiments/style.py --quick                        # two minutes, on drawn shapes and random features
    python experiments/style.py                                # everything
    python experiments/style.py --panel style_64 --only adam   # a part of it, say one for each core
    python experiments/style.py --stage beside --num-tasks 30  # 40 minutes of a core

Needs the pictures, the paintings and VGG-16 (docs/style.md). A gradient takes 40 to 50 ms at 64 x 64 pixels on one core and four
times that at 128 x 128: of style_64 an optimizer takes a quarter of a core-hour and L-BFGS more than half of one, of style_128
four times that; fewer pictures, `--tune-tasks` and `--trials` cost less, and all tables say how many there were.
"""

import argparse
import functools
import itertools
import time
from pathlib import Path

import _baselines
import _imitation
import _publish
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from _imitation import Fit, Plan
from _teacher import annealed, momentum
from jaxtyping import Array, Float
from train_mnist import run
from train_mnist_pair import late

import l2o
from l2o.core import scale
from l2o.evaluation import comparison, records
from l2o.evaluation.suites import paper
from l2o.meta.estimators.bptt import BPTT
from l2o.tasks import style

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHIPPED = Path(l2o.pretrained.__file__).parent / "lstm-style.safetensors"
HORIZON = 128
DIMMED = 0.2  # the least factor of losses in meta-training
# The rule that is imitated, the best of a search of 66 on two training pictures at 64 x 64 pixels (LOG.md; `search_teacher.py
# style` searches on windows, not run yet).
TEACHER = momentum(
    annealed(0.0288, warmup=4.05, num_steps=141.7, exponent=1.035, least=0.05), b1=0.799, b2=0.799, eps=0.0, power=0.493
)
FULL = Plan(
    horizon=130,  # whole tens, as the imitation's error has them
    num_runs=4,
    num_coordinates=2000,
    fits=(
        Fit(300, 50, 5e-3, 128, False),
        Fit(500, 130, 4e-3, 128, False),
        Fit(1500, 130, 4e-3, 128, True),
        Fit(2500, 130, 3e-3, 128, True),
    ),
)
QUICK = Plan(
    horizon=130,
    num_runs=1,
    num_coordinates=50,
    fits=(Fit(10, 50, 5e-3, 20, False), Fit(10, 130, 4e-3, 20, True)),
)
PANELS = ("style_64", "style_128", "strong_64")
OPTIMIZERS = ("lstm-style", *l2o.baselines.PAPER_BASELINES, "lbfgs")
SCHEDULED_RATES = {"adam": (1e-2, 0.3), "nag": (3e-2, 1.0)}  # a decade and a half around the best constant rates
RATES = (3e-3, 1.0)  # below and above the best of every baseline but SGD, which diverges here and there already at 1.0
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


def imitate(arguments, key):
    """The LSTM that copies `TEACHER` on whole pictures."""
    imitated = arguments.folder / "imitated.safetensors"
    if imitated.exists():
        return
    start_key, runs_key = jax.random.split(key)
    plan = QUICK if arguments.quick else FULL
    family = style.family() if arguments.quick else style.family(**PICTURES)
    started = time.perf_counter()
    optimizer = _imitation.imitate(
        _imitation.student(start_key, plan.horizon, preprocessing=7.0, output_scale=0.02),
        {"all": TEACHER},
        [DimmedFamily(family, DIMMED)],
        plan,
        runs_key,
    )
    l2o.pretrained.save(imitated, optimizer, recipe={"seconds": time.perf_counter() - started})


def train(arguments, key):
    quick, folder = arguments.quick, arguments.folder
    imitated, trained = folder / "imitated.safetensors", folder / "trained.safetensors"
    if trained.exists():
        return
    windows = style.family(crop=8) if quick else style.family(crop=32, **PICTURES)
    val = style.family() if quick else style.family(split="val", **PICTURES)
    weights = late(HORIZON)
    problem = l2o.InnerTraining(
        DimmedFamily(windows, DIMMED),
        HORIZON,
        HORIZON,
        step_weights=weights / jnp.mean(weights),
        meta_gradient=l2o.Sampled(0.25),
    )
    # Of the outer rate: first, largest and last, and the number of meta-steps.
    cycles = [(8e-5, 4e-4, 2e-5, 2 if quick else 100), (2e-5, 4e-4, 1e-5, 2 if quick else 200)]
    rates = optax.sgdr_schedule(
        {
            "init_value": first,
            "peak_value": peak,
            "warmup_steps": min(20, num_steps - 1),
            "decay_steps": num_steps,
            "end_value": last,
        }
        for first, peak, last, num_steps in cycles
    )
    result = run(
        l2o.load(imitated),
        BPTT(problem, num_tasks=2, batch_size=1),
        l2o.default_outer_optimizer(rates, max_norm=0.5),
        num_steps=sum(num_steps for *_, num_steps in cycles),
        key=key,
        validation=l2o.Validation(val, HORIZON, num_tasks=4, every=50),
        average=0.95,
        folder=folder / "train",
        checkpoint_every=50,
    )
    plan = QUICK if quick else FULL
    recipe = {
        "task": "style",
        "task_arguments": {} if quick else {**PICTURES, "crop": 32},
        "horizon": HORIZON,
        "truncation": HORIZON,
        "stages": [
            f"imitation of an annealed momentum rule on whole pictures, {plan.num_steps} meta-steps",
            f"bptt, 2 windows of 32 x 32, Adam, averaged meta-parameters, {result.num_steps} meta-steps, best kept",
        ],
        "estimator": "bptt, first order, 25 % of coordinates sampled, last steps first, loss times 1/5 to 1",
        "num_steps": result.num_steps,
        "num_episodes": result.num_episodes + plan.num_recorded,
        "num_inner_steps": result.num_inner_steps + plan.num_recorded * plan.horizon,
        "num_skipped": result.num_skipped,
        "num_diverged": result.num_diverged,
        "average": 0.95,
        "best_validation_loss": result.best_score,
        "seed": arguments.seed,
        "seconds": round(l2o.pretrained.header(imitated)["recipe"]["seconds"] + result.seconds),
        "machine": "CPU, one busy core",
        "command": "python experiments/style.py",
    }
    whole = DimmedFamily(style.family() if quick else style.family(**PICTURES), DIMMED)
    told = scale.gradient_scale(result.optimizer, whole, horizon=1)  # of the first gradients
    l2o.pretrained.save(trained, l2o.Rescaled(result.optimizer, told["start"][1]), recipe=recipe)
    if not quick:
        SHIPPED.write_bytes(trained.read_bytes())


def measured_panels(quick):
    panels = paper.panels(quick)
    if quick:
        return {"style_64": panels["style_64"]}
    # Four tasks at once: Winograd's matrix products are faster when they are larger.
    return {
        "style_64": panels["style_64"]._replace(batch_size=4),
        "style_128": panels["style_128"]._replace(batch_size=2),
        "strong_64": panels["style_64"]._replace(
            make=functools.partial(style.family, split="test", style_weight=100.0, **PICTURES),
            source="ours: style_64 with ten times the weight of the style",
            batch_size=4,
        ),
    }


def measure(arguments, key):
    found = measured_panels(arguments.quick)
    names = [arguments.only] if arguments.only else [n for n in OPTIMIZERS if n not in arguments.leave_out]
    contenders = {n: _learned(arguments) if n == "lstm-style" else n for n in names}
    test_key, compare_key = jax.random.split(key)
    for name in [arguments.panel] if arguments.panel else [*found]:
        folder = arguments.folder / name
        each = None if arguments.quick else style.each_picture(found[name].make(), test_key)[: arguments.num_tasks]
        comparison.compare(
            {name: found[name]},
            contenders,
            key=compare_key,
            num_tasks=4,
            test_keys=each,
            tune_tasks=2 if arguments.quick else arguments.tune_tasks,
            search=l2o.Search(arguments.trials, rates=RATES),
            measure_costs=arguments.costs and not arguments.only,
            folder=folder,
            resume=(folder / "comparison.json").exists(),
            on_done=lambda panel, optimizer, record: print(
                f"{panel}: {optimizer}, {record.seconds:.0f} s, loss {record.curves.losses[:, -1].mean():.4g}",
                flush=True,
            ),
        )
        if arguments.only:
            continue
        _publish.publish(folder, name, quick=arguments.quick)
        for sheet in _publish.RESULTS.glob(f"{name}-*images*"):
            sheet.unlink()  # the photographs may not be passed on


def beside(arguments, key):
    """`lstm-style` beside its teacher and scheduled baselines, on the first of the test pictures."""
    name = arguments.panel or "style_64"
    panel, at = measured_panels(arguments.quick)[name], arguments.folder / f"beside-{name}"
    test_key, compare_key = jax.random.split(key)
    keys = jax.random.split(test_key, 2) if arguments.quick else style.each_picture(panel.make(), test_key)
    num_tasks = 2 if arguments.quick else arguments.num_tasks
    options = {
        "key": compare_key,
        "test_keys": keys[:num_tasks],
        "tune_tasks": 2 if arguments.quick else arguments.tune_tasks,
        "on_done": lambda panel, optimizer, record: print(
            f"{panel}: {optimizer}, {record.seconds:.0f} s, loss {record.curves.losses[:, -1].mean():.4g}", flush=True
        ),
    }
    teacher = _publish.teacher_of("lstm-style")
    comparison.compare(
        {name: panel},
        {
            "lstm-style": _learned(arguments),
            teacher: TEACHER,
            **_baselines.best_of_table(_publish.RESULTS / f"{name}.csv", name),
        },
        measure_costs=arguments.costs,
        folder=at,
        resume=(at / "comparison.json").exists(),
        **options,
    )
    budget = _baselines.Budget(arguments.trials, SCHEDULED_RATES)
    scheduled = list(_baselines.compare({name: panel}, budget, at / "scheduled", **options))
    _publish.publish(at, f"{name}-scheduled", quick=arguments.quick, figures=False, beside=scheduled)


def _learned(arguments):
    """What was trained in this folder; else what ships."""
    trained = arguments.folder / "trained.safetensors"
    return trained if trained.exists() else "lstm-style"


def pictures(arguments, key):
    """Munch's Scream in the style of van Gogh's Starry Night, both in the public domain; the test photographs are not."""
    if arguments.quick:
        task = style.between(style._synthetic(key, 16), style._synthetic_style(16), features="random")
        painting = style._synthetic_style(16)
    else:
        photo, painting = (l2o.data.load_style(name, 64) for name in ("scream", "starry_night"))
        task = style.between(photo, painting)
    found = records.load(arguments.folder / "style_64").records["style_64"]
    rows = {}
    for name, record in found.items():
        if record.learned:
            optimizer = l2o.load(_learned(arguments))
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
    parser.add_argument(
        "--stage", choices=["imitate", "train", "measure", "beside", "pictures"], help="only this stage"
    )
    parser.add_argument("--panel", choices=PANELS, help="measure only this panel")
    parser.add_argument("--only", choices=OPTIMIZERS, help="measure only this one, say one for each core")
    parser.add_argument(
        "--leave-out", choices=OPTIMIZERS, nargs="+", default=[], help="measure and publish all but these"
    )
    parser.add_argument("--num-tasks", type=int, default=100, help="test pictures, each painted once")
    parser.add_argument("--tune-tasks", type=int, default=4, help="draws of the test pictures to tune the baselines on")
    parser.add_argument("--trials", type=int, default=15, help="rates tried for each baseline")
    parser.add_argument("--no-costs", dest="costs", action="store_false", help="do not time a step of each optimizer")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.trials, arguments.costs = 3, False
        arguments.folder /= "quick"  # its files are not to be taken for those of a whole run
    arguments.folder.mkdir(parents=True, exist_ok=True)  # rather than find out after four minutes
    imitate_key, train_key, test_key, picture_key = jax.random.split(jax.random.key(arguments.seed), 4)
    stages = [arguments.stage] if arguments.stage else ["imitate", "train", "measure", "pictures"]
    if "imitate" in stages:
        imitate(arguments, imitate_key)
    if "train" in stages:
        train(arguments, train_key)
    if "measure" in stages:
        measure(arguments, test_key)
    if "beside" in stages:
        beside(arguments, test_key)
    if "pictures" in stages:
        pictures(arguments, picture_key)


if __name__ == "__main__":
    main()
