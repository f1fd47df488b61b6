"""A comparison in a folder, to be killed: python killable_comparison.py FOLDER"""

import sys
from pathlib import Path

import jax

import l2o
from l2o.evaluation import comparison
from l2o.evaluation.tuning import Search
from l2o.tasks import quadratic, rosenbrock

folder = Path(sys.argv[1])
l2o.use_all_cores(2)
comparison.compare(
    {
        "quadratics": l2o.Panel(quadratic.family, 30, 60, "Andrychowicz et al. 2016"),
        "rosenbrock": l2o.Panel(rosenbrock.family, 30, 60, "Rosenbrock 1960"),
    },
    ["lstm-quadratic", "sgd", "adam"],
    key=jax.random.key(0),
    num_tasks=4,
    tune_tasks=2,
    search=Search(5),
    measure_costs=False,
    folder=folder,
    resume=(folder / "comparison.json").exists(),
)
