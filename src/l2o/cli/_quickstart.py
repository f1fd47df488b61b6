"""`l2o quickstart`: the main job first, and then what is for research, in under three minutes."""

import json
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
import typer

import l2o
from l2o import report
from l2o.cli import _common
from l2o.cli._common import Cores, Seed, console
from l2o.evaluation import analysis, comparison
from l2o.io.files import write_whole
from l2o.meta.estimators.bptt import BPTT
from l2o.optimizers import lstm
from l2o.report import designed
from l2o.tasks import mlp, quadratic

DESIGN_MINUTES, DESIGN_HORIZON = 0.6, 40
NUM_STEPS = 300  # meta-steps
MAX_SECONDS = 30.0  # of meta-training, where the machine is slow
NUM_FRESH, NUM_TUNING = 512, 128  # quadratics
QUADRATIC_BASELINES = ("momentum", "nag", "rmsprop", "adam", "muon", "lbfgs")
QUADRATICS, MNIST = "Quadratics", "MNIST sample, 784-20-10"
MNIST_OPTIMIZERS = ("lstm-mnist-pair", "lstm-mnist")


def wave(p):
    """A damped sinusoid: amplitude, damping, frequency, phase, offset."""
    time = jnp.linspace(0, 1, 64)
    return p[0] * jnp.exp(-p[1] * time) * jnp.sin(p[2] * time + p[3]) + p[4]


def waves(key):
    """The family of docs/design.md: fit a measured curve, five numbers, another curve each time."""
    low, high = jnp.array([0.5, 0.5, 2, -1, -0.5]), jnp.array([2, 3, 6, 1, 0.5])
    curve = wave(low + (high - low) * jax.random.uniform(key, (5,)))
    return l2o.FunctionTask(lambda key: jnp.array([1, 1, 4, 0, 0.0]), lambda p, key: jnp.mean((wave(p) - curve) ** 2))


def quickstart(
    folder: Annotated[Path, typer.Option(help="Where the figure, tables and weights go.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    cores: Cores = None,
) -> None:
    """An optimizer is designed for a problem and beats tuned baselines; then come networks: one is meta-trained, two are shipped.

    The folder gets design.html and design.safetensors, weights.safetensors (of the network), table.json and curves.png.
    """
    l2o.use_all_cores(cores)
    _common.start_folder(folder, {"seed": seed, "cores": cores})
    keys = jax.random.split(jax.random.key(seed), 5)

    console.rule("1. Design an optimizer for fitting damped sinusoids")
    design_for_waves(folder, keys[4])

    console.rule("2. Meta-train an LSTM optimizer on random quadratics")
    learned = meta_train_on_quadratics(keys[0], keys[1])
    l2o.pretrained.save(
        folder / "weights.safetensors", learned, recipe={"task": "quadratic", "horizon": 100, "command": "quickstart"}
    )

    console.print(f"It is compared with tuned baselines on {NUM_FRESH} fresh quadratics.")
    with console.status("Tuning and running the baselines ...") as status:
        on_quadratics = comparison.compare(
            {QUADRATICS: l2o.Panel(quadratic.family, 100, 200, "Andrychowicz et al. 2016, section 3.1")},
            # As they are, so that the last column shows how they go on beyond their horizon.
            {"lstm (just trained)": learned, "lstm-quadratic": l2o.load("lstm-quadratic", beyond=None)}
            | {n: n for n in QUADRATIC_BASELINES},
            key=keys[2],
            num_tasks=NUM_FRESH,
            tune_tasks=NUM_TUNING,
            measure_costs=False,
            on_done=lambda panel, name, record: status.update(f"{name} done ..."),
        ).records[QUADRATICS]
    rows = analysis.rows(on_quadratics, [20, 50, 100, 200])
    for statistic in ("mean", "median"):
        title = f"{statistic} loss and 95 % interval; rates tuned for step 100 on other tasks"
        console.print(report.table(rows, statistic=statistic, title=title))
    first_order = [name for name in QUADRATIC_BASELINES if name != "lbfgs"]
    _print_ratio(on_quadratics, "lstm (just trained)", 100, 1, first_order)

    console.rule("3. Shipped optimizers on a real MNIST sample (784-20-10 perceptron)")
    with console.status("Tuning and running the baselines ...") as status:
        on_mnist = comparison.compare(
            {MNIST: l2o.Panel(mlp.family, 100, 200, "Andrychowicz et al. 2016, section 3.2", window=10, batch_size=5)},
            (*MNIST_OPTIMIZERS, *l2o.baselines.PAPER_BASELINES),
            key=keys[3],
            num_tasks=10,
            tune_tasks=4,
            measure_costs=False,
            on_done=lambda panel, name, record: status.update(f"{name} done ..."),
        ).records[MNIST]
    mnist_rows = analysis.rows(on_mnist, [20, 50, 100, 200], window=10)
    title = "mean loss of 10-step windows and 95 % interval; rates tuned for step 100"
    console.print(report.table(mnist_rows, title=title))
    for name in MNIST_OPTIMIZERS:
        _print_ratio(on_mnist, name, 100, 10, None)
    accuracies = {r["optimizer"]: r["final_accuracy"] for r in mnist_rows}
    console.print("Test accuracy after 200 steps:", ", ".join(f"{k} {v:.3f}" for k, v in accuracies.items()))

    write_whole(folder / "table.json", json.dumps({"quadratic": rows, "mnist_sample": mnist_rows}, indent=1).encode())
    picture = report.figure(
        {QUADRATICS: on_quadratics, MNIST: on_mnist},
        folder / "curves.png",
        window={QUADRATICS: 1, MNIST: 10},
        optimizers={QUADRATICS: ["lstm (just trained)", "lstm-quadratic", "nag", "rmsprop", "adam", "muon"]},
    )
    console.print(f"\nFigure: {picture}\nYour network: {folder / 'weights.safetensors'}", soft_wrap=True)


def design_for_waves(folder: Path, key) -> l2o.Designed:
    """What `l2o.design` finds in half a minute, printed and written into the folder."""
    bar, on_progress = _common.stages()
    with bar:
        found = l2o.design(
            waves,
            horizon=DESIGN_HORIZON,
            minutes=DESIGN_MINUTES,
            key=key,
            name="fitting damped sinusoids",
            on_progress=on_progress,
        )
    for sentence in designed.verdict(found):
        console.print(sentence, soft_wrap=True)
    for title, formula in designed.formulas(found.winner):
        console.print(f"\n{title}\n\n{formula}", soft_wrap=True)
    write_whole(folder / "design.html", report.design_page(found).encode())
    weights = found.save(folder / "design.safetensors")
    console.print(f"\nPage: {folder / 'design.html'}\nYour optimizer: {weights}\n", soft_wrap=True)
    return found


def meta_train_on_quadratics(init_key, train_key, num_steps: int = NUM_STEPS, max_seconds: float | None = MAX_SECONDS):
    """An LSTM meta-trained on the paper's quadratics for 100 inner steps."""
    family = quadratic.family()
    problem = l2o.InnerTraining(family, horizon=100, truncation=20)
    bar, on_step = _common.progress(num_steps, "meta-training")
    with bar:
        result = l2o.meta_train(
            lstm.build(init_key, preset="raw"),
            BPTT(problem, num_tasks=64),
            l2o.default_outer_optimizer(optax.cosine_decay_schedule(1e-2, num_steps, 0.05), max_norm=0.1),
            num_steps=num_steps,
            key=train_key,
            validation=l2o.Validation(family, 100, num_tasks=128, every=100, final_steps=1),
            max_seconds=max_seconds,
            on_step=on_step,
        )
    console.print(
        f"{result.num_steps} meta-steps, {result.num_episodes:.0f} inner runs, {result.seconds:.0f} s; "
        f"{result.num_skipped} meta-steps skipped, {result.num_diverged} episodes diverged."
    )
    return result.optimizer


def _print_ratio(results, name, step, window, names):
    best, ratio, low, high = analysis.ratio_to_best(results, name, step, window, names)
    console.print(
        f"{name} / {best} (best tuned first-order baseline) at step {step}: {ratio:.3f} [{low:.3f}, {high:.3f}]"
    )
