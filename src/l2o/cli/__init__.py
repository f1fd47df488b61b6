"""The command line: `l2o train | compare | explain | stylize | report | tasks | suites | optimizers | pretrained | quickstart`.

This module imports neither JAX nor anything that does, so that `l2o --help` answers at once; the commands do when they run.
"""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="l2o",
    help="Meta-train optimizers on the problems you care about, and see whether they beat a tuned Adam.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Argument of the task's family, as name=value (JSON values), e.g. -s dim=20."),
]
TaskName = Annotated[str, typer.Argument(help="A task (see `l2o tasks`), or your own as my_module:family.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Cores = Annotated[int | None, typer.Option(help="CPU cores to use, one program on each. Default: all.")]


@app.command()
def train(
    task: TaskName,
    optimizer: Annotated[str, typer.Option(help="Architecture to train (see `l2o optimizers`).")] = "lstm",
    optimizer_set: Annotated[
        list[str] | None,
        typer.Option("--optimizer-set", "-o", help="Argument of the architecture, as name=value, e.g. -o preset=code."),
    ] = None,
    set_: Set = None,
    init: Annotated[
        str | None, typer.Option(help="Start from these weights: a shipped name, a file, a folder or user/repo.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="Meta-gradient estimator: bptt or pes.")] = "bptt",
    horizon: Annotated[int | None, typer.Option(help="Inner steps an episode. Default: the task's own.")] = None,
    truncation: Annotated[int, typer.Option(help="Inner steps a meta-gradient; must divide the horizon.")] = 20,
    num_tasks: Annotated[int, typer.Option(help="Tasks in a meta-batch.")] = 64,
    batch_size: Annotated[
        int | None, typer.Option(help="Tasks run at once on a core; fewer is faster for networks. Default: all.")
    ] = None,
    sample: Annotated[
        float | None, typer.Option(help="Fraction of coordinates to sample for the meta-gradient, in (0, 1].")
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the meta-loss: train, or outer (larger batches).")] = "train",
    num_steps: Annotated[int, typer.Option(help="Meta-steps.")] = 1000,
    learning_rate: Annotated[float, typer.Option(help="Adam's learning rate for the meta-parameters.")] = 1e-3,
    max_norm: Annotated[float, typer.Option(help="Clip the meta-gradient to this norm.")] = 0.1,
    average: Annotated[
        float, typer.Option(help="Decay of an exponential average of the meta-parameters, which is kept; 0: none.")
    ] = 0.0,
    validate_every: Annotated[int, typer.Option(help="Meta-steps between validations.")] = 100,
    validation_tasks: Annotated[
        int, typer.Option(help="Fixed validation tasks; the best optimizer on them is kept.")
    ] = 16,
    checkpoint_every: Annotated[int, typer.Option(help="Meta-steps between checkpoints.")] = 100,
    folder: Annotated[Path, typer.Option(help="Where the run goes.")] = Path("runs/train"),
    resume: Annotated[bool, typer.Option(help="Go on with the run in --folder.")] = False,
    seed: Seed = 0,
    cores: Cores = None,
):
    """Meta-train an optimizer on a task family.

    The folder gets config.json, metrics.jsonl, TensorBoard events, checkpoints, weights.safetensors and curves.png.
    """
    from l2o.cli import _train

    arguments = {k: v for k, v in locals().items() if k != "_train"}
    _reporting_errors(_train.run, **arguments)


@app.command()
def compare(
    task: Annotated[
        str, typer.Argument(help="A task (see `l2o tasks`), your own as my_module:family, or a suite (`l2o suites`).")
    ],
    optimizers: Annotated[
        list[str] | None,
        typer.Argument(
            help="Learned optimizers (shipped names, weights files, folders, user/repo on the Hugging Face Hub) and baselines "
            "(see `l2o optimizers`). Default: all shipped, and sgd nag rmsprop adam lion muon."
        ),
    ] = None,
    set_: Set = None,
    quick: Annotated[bool, typer.Option(help="A suite made small: minutes, and only data that ship.")] = False,
    tune: Annotated[bool, typer.Option(help="Tune the baselines; else --rate.")] = True,
    rate: Annotated[float, typer.Option(help="Learning rate of the baselines with --no-tune.")] = 1e-3,
    trials: Annotated[int, typer.Option(help="Settings tried for each baseline: the same budget for all.")] = 11,
    search: Annotated[str, typer.Option(help="grid (rates from 1e-4 to 10) or random.")] = "grid",
    schedule: Annotated[
        list[str] | None,
        typer.Option(help="Schedules to search: constant, cosine, warmup_cosine; repeat it. Default: constant."),
    ] = None,
    weight_decay: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Smallest and largest weight decay, for --search random; default: optax's own."),
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(help="Steps that rates are tuned for. Default: the task's own.")
    ] = None,
    run_to: Annotated[int | None, typer.Option(help="Steps that curves show. Default: twice the horizon.")] = None,
    num_tasks: Annotated[
        int | None, typer.Option(help="Fresh tasks (seeds) to report on. Default: 20, or 10 with --quick.")
    ] = None,
    tune_tasks: Annotated[
        int | None, typer.Option(help="Other tasks, to tune on. Default: 10, or 3 with --quick.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Average losses over this many steps. Default: a tenth of the horizon.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where records, tables and curves.png go.")] = Path("runs/compare"),
    resume: Annotated[bool, typer.Option(help="Go on with the comparison in --folder; nothing is run twice.")] = False,
    seed: Seed = 0,
    cores: Cores = None,
):
    """Compare optimizers on the same fresh tasks of a task or a whole suite, baselines tuned on others."""
    from l2o.cli import _compare

    arguments = {k: v for k, v in locals().items() if k != "_compare"}
    _reporting_errors(_compare.run, **arguments)


@app.command()
def explain(
    weights: Annotated[str, typer.Argument(help="A shipped optimizer, a weights file, or a folder with one.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="Task family (see `l2o tasks`), or my_module:family. Default: what the weights were trained on."
        ),
    ] = None,
    set_: Set = None,
    part: Annotated[
        str | None,
        typer.Option(help="Of weights of several rules, explain this one. Default: all as if they were one."),
    ] = None,
    horizon: Annotated[int | None, typer.Option(help="Steps of a run. Default: the one of meta-training.")] = None,
    num_tasks: Annotated[
        int | None, typer.Option(help="Held-out runs. Default: 256, or 10 of tasks with more than 1,000 parameters.")
    ] = None,
    num_fitted: Annotated[
        int | None, typer.Option(help="Runs that surrogates are fitted to. Default: 64, or 10.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where text, numbers and figures go.")] = Path(
        "runs/explain"
    ),
    seed: Seed = 0,
    cores: Cores = None,
):
    """Say what learned weights amount to: updates against gradients, and the rule of a few constants that explains them best.

    Writes explanation.txt, explanation.json, and the figures behaviour-updates, -trajectories and -fit (SVG and PNG).
    """
    from l2o.cli import _explain

    arguments = {k: v for k, v in locals().items() if k != "_explain"}
    _reporting_errors(_explain.run, **arguments)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a comparison (`l2o compare --folder`), complete or not.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write to. Default: the comparison's own.")
    ] = None,
):
    """Write the report of a comparison: one HTML page that opens offline, a summary, figures, tables.

    Writes report.html, summary.txt, figures/ (SVG and PNG), table.csv, table.json and events/ (TensorBoard).
    """
    from l2o.cli import _report

    _reporting_errors(_report.run, folder=folder, output=output)


@app.command()
def stylize(
    content: Annotated[Path, typer.Option(help="The picture to paint: JPEG, PNG or whatever else Pillow reads.")],
    style: Annotated[Path, typer.Option(help="The picture whose style to paint it in.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The PNG to write. Default: CONTENT-STYLE.png, here.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Longest side of the result, in pixels. Default: the content's own, but at most 512."),
    ] = None,
    style_size: Annotated[
        int | None,
        typer.Option(help="Longest side the style is resized to, in pixels: larger strokes. Default: the result's."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimization steps.")] = 128,
    optimizer: Annotated[
        str,
        typer.Option(help="A learned optimizer (shipped name or weights file) or a baseline (see `l2o optimizers`)."),
    ] = "lstm-style",
    rate: Annotated[
        float | None,
        typer.Option(help="Learning rate of a baseline; black is 0 and white is 1. Default: 0.02, usual for adam."),
    ] = None,
    content_weight: Annotated[float, typer.Option(help="How much the content's features count.")] = 10.0,
    style_weight: Annotated[float, typer.Option(help="How much the style's textures count.")] = 10.0,
    variation_weight: Annotated[float, typer.Option(help="How much smoothness counts.")] = 10.0,
    start: Annotated[str, typer.Option(help="Where to start: content or noise.")] = "content",
    features: Annotated[
        str, typer.Option(help="Network that sees: vgg16 (needs its weights), or random, which needs nothing.")
    ] = "vgg16",
    seed: Seed = 0,
):
    """Paint one picture in the style of another: neural art, for any two image files.

    A step takes about 50 ms of one CPU core at 64 x 64 pixels with vgg16; the time grows with the number of pixels.
    """
    from l2o.cli import _stylize

    arguments = {k: v for k, v in locals().items() if k != "_stylize"}
    _reporting_errors(_stylize.run, **arguments)


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="Where the figure, tables and weights go.")] = Path("runs/quickstart"),
    seed: Seed = 0,
    cores: Cores = None,
):
    """Meta-train an optimizer in a minute and compare it with tuned baselines; then a shipped one, on MNIST."""
    from l2o.cli import _quickstart

    _reporting_errors(_quickstart.run, folder=folder, seed=seed, cores=cores)


@app.command()
def tasks():
    """List the task families and their arguments."""
    from l2o.cli import _listings

    _listings.tasks()


@app.command()
def suites():
    """List the suites of task families and their panels."""
    from l2o.cli import _listings

    _listings.suites()


@app.command()
def optimizers():
    """List the learned architectures, the pretrained optimizers and the baselines."""
    from l2o.cli import _listings

    _listings.optimizers()


@app.command()
def pretrained(
    name: Annotated[
        str | None, typer.Argument(help="Show its card: a shipped name, file, folder or user/repo. Default: list all.")
    ] = None,
):
    """List the optimizers that ship with the package, or show one's card."""
    from l2o.cli import _listings

    _reporting_errors(_listings.pretrained, name=name)


def _reporting_errors(command, **arguments):
    """Runs a command; a mistake in its input is one line on stderr, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a path may hold bytes that are no text: they come out as they went in
            stream.reconfigure(errors="surrogateescape" if stream.encoding == "utf-8" else "backslashreplace")
    try:
        command(**arguments)
    except (ValueError, TypeError, OSError, ImportError) as error:
        from l2o.io.door import printable

        typer.secho(f"error: {printable(str(error))}", fg="red", err=True)
        raise typer.Exit(2) from error
    except KeyboardInterrupt as interrupt:
        typer.secho("\n".join(["Interrupted.", *getattr(interrupt, "__notes__", [])]), err=True)
        raise typer.Exit(130) from interrupt


def main():
    """Entry point of the `l2o` command."""
    app(prog_name="l2o", args=sys.argv[1:])
