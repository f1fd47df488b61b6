"""`l2o compare`."""

import json
from pathlib import Path

import jax
import numpy as np

import l2o
from l2o import comparison, report
from l2o._checkpoint import write_whole
from l2o._task import check_family
from l2o.cli import _common
from l2o.cli._common import console


def run(
    *, task, optimizers, set_, tune, rate, per_decade, horizon, num_tasks, tune_tasks, window, folder: Path, seed, cores
) -> None:
    """Compares, prints the table, writes table.json and curves.png."""
    config = dict(locals())
    l2o.use_all_cores(cores)
    family, usual_horizon = _common.find_family(task, _common.parse_settings(set_))
    horizon = horizon or usual_horizon
    window = window or max(1, horizon // 10)
    baseline_names = [name for name in optimizers if name in l2o.baselines.BASELINES]
    unknown = [
        n for n in optimizers if n not in baseline_names and n not in l2o.pretrained.names() and not Path(n).is_file()
    ]
    if unknown:
        raise ValueError(
            f"No optimizer named {unknown[0]!r}. Pretrained: {', '.join(l2o.pretrained.names())}. Baselines: "
            f"{', '.join(l2o.baselines.BASELINES)}. Or pass a weights file."
        )
    learned = {n: l2o.load(n) for n in optimizers if n not in baseline_names}
    key = jax.random.key(seed)
    check_family(family, key)
    _common.start_folder(folder, config)
    with console.status("Running ...") as status:
        results = comparison.compare(
            family,
            learned=learned,
            baseline_names=baseline_names,
            horizon=horizon,
            key=key,
            num_tasks=num_tasks,
            tune_tasks=tune_tasks,
            rates=l2o.baselines.learning_rates(per_decade=per_decade) if tune else np.array([rate]),
            final_steps=window,
            on_done=lambda name: status.update(f"{name} done ..."),
        )
    steps = sorted({max(1, horizon // 5), horizon // 2, horizon} - {0})
    rows = comparison.rows(results, steps, window)
    for statistic in ("mean", "median"):
        title = f"{statistic} loss on {num_tasks} fresh tasks, {window}-step average and 95 % interval"
        console.print(report.table(rows, statistic=statistic, title=title))
    if not tune:
        console.print(f"Baselines untuned, at rate {rate:g}: not a fair comparison.")
    if baseline_names:
        for name in learned:
            best, ratio, low, high = comparison.ratio_to_best(results, name, horizon, window)
            console.print(f"{name} / {best} at step {horizon}: {ratio:.3f} [{low:.3f}, {high:.3f}]", markup=False)
    write_whole(folder / "table.json", json.dumps(rows, indent=1).encode())
    console.print(f"Curves: {report.figure({task: results}, folder / 'curves.png', window=window)}", soft_wrap=True)
