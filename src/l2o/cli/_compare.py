"""`l2o compare`."""

import functools
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import l2o
from l2o import report
from l2o.cli import _common
from l2o.cli._common import Cores, Seed, Set, console
from l2o.core import plugins
from l2o.core.task import check_family
from l2o.evaluation import analysis, comparison
from l2o.evaluation.panel import Panel
from l2o.evaluation.tuning import Search
from l2o.io.files import holding_its_folder

DEFAULT_BASELINES = ("sgd", "nag", "rmsprop", "adam", "lion", "muon")


@holding_its_folder
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
) -> None:
    """Baselines are tuned on other tasks than those reported. The folder gets records, table.csv, table.json and curves.png."""
    config = dict(locals())
    l2o.use_all_cores(cores)
    space = Search(trials, search, schedules=tuple(schedule or ["constant"]), weight_decays=weight_decay)
    if task in plugins.names("suites"):
        if set_ or horizon or run_to or window:
            raise ValueError("--set, --horizon, --run-to and --window are for a single task; a suite has its own.")
        panels = plugins.get("suites", task).panels(quick)
    elif ":" not in task and task not in plugins.names("tasks"):
        raise ValueError(
            f"No task or suite named {task!r}. Suites: {', '.join(plugins.names('suites'))}. Tasks: "
            f"{', '.join(plugins.names('tasks'))}; or pass module:attribute."
        )
    elif quick:
        raise ValueError(f"--quick is for suites ({', '.join(plugins.names('suites'))}); {task!r} is none.")
    else:
        panels = {_title(task, set_): _panel(task, _common.parse_settings(set_), horizon, run_to, window)}
    panels = {name: p._replace(make=functools.cache(p.make)) for name, p in panels.items()}  # made twice otherwise
    names = optimizers or [*_shipped_for(panels), *DEFAULT_BASELINES]
    for name in names:
        comparison.check_name(name)
    contenders: dict[str, Any] = {name: name for name in names}
    if not tune:
        contenders |= {n: l2o.baselines.get(n).make(rate) for n in names if n in l2o.baselines.BASELINES}
    begin = _common.once(lambda: _common.start_folder(folder, config))  # not before `compare` has taken the folder
    with _common.bar(len(panels) * len(names), "cells") as advance:

        def on_done(panel, name, record):
            begin()
            report.write_cell(folder / "events", panel, name, record, panels[panel].window)  # for TensorBoard
            advance(f"{panel}: {name}")

        result = comparison.compare(
            panels,
            contenders,
            key=jax.random.key(seed),
            num_tasks=num_tasks or (10 if quick else 20),
            tune_tasks=tune_tasks or (3 if quick else 10),
            search=space,
            folder=folder,
            resume=resume,
            on_done=on_done,
        )
    begin()
    analysis.write_table(result, folder)
    if len(panels) > 1:
        console.print(report.overall_table(result))
    else:
        _print_panel(result, *next(iter(panels.items())))
    if not tune:
        console.print(f"Baselines untuned, at rate {rate:g}: not a fair comparison.")
    windows = {name: panel.window for name, panel in result.panels.items()}
    console.print(
        f"Curves: {report.figure(result.records, folder / 'curves.png', window=windows)}\n"
        f"Page:   {_common.shell('l2o', 'report', folder)}",
        soft_wrap=True,
    )


def _shipped_for(panels):
    """The shipped optimizers that can be used on some panel."""
    families, key = [panel.make() for panel in panels.values()], jax.random.key(0)
    shipped = {name: l2o.load(name) for name in l2o.pretrained.names()}
    return [n for n, o in shipped.items() if any(comparison.refusal(o, f, key) is None for f in families)]


def _title(task, settings):
    return f"{task} ({', '.join(settings)})" if settings else task


def _panel(task, settings, horizon, run_to, window) -> Panel:
    family, usual_horizon = _common.find_family(task, settings)
    check_family(family, jax.random.key(0))
    horizon = horizon or usual_horizon
    source = task if ":" in task else (plugins.get("tasks", task).__doc__ or task).splitlines()[0]
    run_to = run_to or 2 * horizon
    if run_to < horizon:
        raise ValueError(f"--run-to must be at least the horizon, got {run_to} and {horizon}.")
    window = window or max(1, horizon // 10)
    if not 0 < window <= horizon:
        raise ValueError(f"--window must be from 1 to the horizon, got {window} and {horizon}.")
    return Panel(lambda: family, horizon, run_to, source, window)


def _print_panel(result, name, panel):
    steps = sorted({max(panel.window, panel.horizon // 5), panel.horizon // 2, panel.horizon, panel.run_to})
    rows = analysis.rows(result.records[name], [s for s in steps if s >= panel.window - 1], panel.window)
    for statistic in ("mean", "median"):
        title = f"{statistic} loss on {rows[0]['num_tasks']} fresh tasks, {panel.window}-step average and 95 % interval"
        console.print(report.table(rows, statistic=statistic, title=title))
    for optimizer, why in result.left_out[name].items():
        console.print(f"{optimizer} is left out: it {why}.", soft_wrap=True)
    if any(not record.learned for record in result.records[name].values()):
        for optimizer, record in result.records[name].items():
            if record.learned:
                timed, back = analysis.clock(result, name), analysis.pay_back(result, name, optimizer)
                console.print(
                    f"{optimizer} / {back.best} at step {panel.horizon}: {back.ratio:.3f} [{back.low:.3f}, {back.high:.3f}]"
                )
                if timed is not None and (it := timed.optimizers.get(optimizer)) is not None and it.ratio is not None:
                    cut = "" if it.recorded else f" ({it.cut()})"
                    told = f"{it.ratio.value:.3f} [{it.ratio.low:.3f}, {it.ratio.high:.3f}]{cut}"
                    console.print(f"In equal seconds, step {it.step}: {told}", soft_wrap=True)
