"""CIFAR-10 and its subsets (Andrychowicz et al. 2016, section 3.3): python experiments/cifar.py --folder runs/cifar

Two LSTMs, one for the convolutional and one for the dense parameters, against one LSTM for all and the paper's baselines, on the
paper's net (16-16-16 channels, 32 dense units, batch norm, minibatch 128) for 1,000 steps. On CIFAR-5 and CIFAR-2 beside them
"LSTM-sub", two LSTMs meta-trained on the labels held out there (5 to 9, and 2 to 9).

Meta-training by back-propagation through this net takes a GPU (a gradient takes 55 ms of a CPU core). What a CPU can do is
imitate. CPU times are of one core. Stages, each skipped where its file is there:

1. imitate: the LSTMs learn to copy a hand-designed rule, `TEACHERS`, by back-propagation through up to 1,000 steps. For that
   the gradients of some coordinates are recorded over whole runs, the teacher's and then the student's own; a coordinatewise
   rule needs no more. 12 CPU-minutes for each of the four. The teacher's constants are the best of a search of 600 on a small net
   (8 x 8 pixels, 8-8 channels), its rates then halved on this one (LOG.md); `search_teacher.py cifar` searches likewise, not
   run yet. All ten labels were used for that: LSTM-sub has never seen the labels it is tested on, but its teacher was chosen
   with them.
2. measure: compared on the paper's panels (`l2o.evaluation.suites.paper`), baselines tuned on other keys; the teacher too, if
   asked for. Resumable, an optimizer at a time; published when all of a panel are there.
3. beside: the first --num-tasks of the same seeds again, for what the panels lack: the two LSTMs beside the teacher itself, the
   best of the four baselines at the rate that the panel's table has, and, unless --no-scheduled, Adam and NAG with a schedule
   and a rate for each kind of parameter, tuned by as many trials as the four (`_baselines`). A table of its own.
4. ship: the two LSTMs become `lstm-cifar`, with the size of the gradients that they know (16 runs, 16 minutes).

    python experiments/cifar.py --quick                     # two minutes, on the MNIST sample; publishes nothing
    python experiments/cifar.py --num-tasks 20              # everything; measuring takes five CPU-hours for each panel
    python experiments/cifar.py --panel cifar10 --only nag  # a part of it, say one for each core
    python experiments/cifar.py --panel cifar10 --schedule cosine  # beside an annealed baseline: 70 CPU-minutes
    python experiments/cifar.py --panel cifar10 --stage beside --num-tasks 8 --no-scheduled  # a quarter of an hour
    python experiments/cifar.py --stage ship

Needs the full CIFAR-10 (see docs/data.md).
"""

import argparse
import time
from pathlib import Path

import _baselines
import _publish
import jax
from _imitation import Fit, Plan, imitate, student, students
from _teacher import annealed, momentum, together

import l2o
from l2o.evaluation import comparison, tuning
from l2o.evaluation.suites import paper
from l2o.optimizers.baselines import PAPER_BASELINES
from l2o.tasks import convnet

SHIPPED = Path(l2o.__file__).parent / "io" / "pretrained" / "lstm-cifar.safetensors"
PANELS = ("cifar10", "cifar5", "cifar2")
# Name: the labels it is meta-trained on, whether it is two LSTMs, and the panels that it is measured on.
OPTIMIZERS = {
    "two LSTMs": (None, True, ("cifar10", "cifar5", "cifar2")),
    "one LSTM": (None, False, ("cifar10",)),
    "LSTM-sub of CIFAR-5": ((5, 6, 7, 8, 9), True, ("cifar5",)),
    "LSTM-sub of CIFAR-2": ((2, 3, 4, 5, 6, 7, 8, 9), True, ("cifar2",)),
}
# The rules that are imitated (LOG.md), and what a student preprocesses gradients by and multiplies its outputs by.
SCHEDULE = {"warmup": 1.75, "num_steps": 1001, "exponent": 0.78, "least": 0.2}
TEACHERS = {
    "conv": momentum(annealed(0.0079, **SCHEDULE), b1=0.734, b2=0.944, eps=1.3e-7, power=0.586),
    "dense": momentum(annealed(0.0098, **SCHEDULE), b1=0.185, b2=0.793, eps=1e-7, power=0.407),
}
CONSTANTS = {
    "conv": {"preprocessing": 5.0, "output_scale": 0.05},
    "dense": {"preprocessing": 5.0, "output_scale": 0.02},
}
# For one LSTM, which cannot tell the two kinds apart: one rule between them, better for all than either (0.91, 0.95 and 0.97 on
# two seeds of the paper's net).
ONE_TEACHER = momentum(annealed(0.0088, **SCHEDULE), b1=0.5, b2=0.88, eps=1.2e-7, power=0.5)
ONE_CONSTANTS = {"preprocessing": 5.0, "output_scale": 0.03}
TEACHER = "their teacher"  # its name on the panel
# Of the baselines with a rate for each kind: a decade and a half around the best constant rate, for so few trials.
RATES = {"adam": (1e-3, 3e-2), "nag": (1e-2, 3e-1)}
NUM_SEEDS = 20  # of the tables
ANNEALED = "nag"  # the baseline measured with `--schedule`: on all three panels the best without one


FULL = Plan(
    horizon=1000,
    num_runs=3,
    num_coordinates=1000,
    fits=(
        Fit(300, 100, 5e-3, 128, False),
        Fit(200, 300, 4e-3, 96, False),
        Fit(250, 1000, 3e-3, 64, False),
        Fit(700, 1000, 2e-3, 96, True),
        Fit(500, 1000, 2e-3, 96, True),
    ),
)
QUICK = Plan(
    horizon=40,
    num_runs=2,
    num_coordinates=50,
    fits=(Fit(10, 40, 5e-3, 20, False), Fit(10, 40, 3e-3, 20, True)),
)
QUICK_NET = {"data": "mnist_sample", "downscale": 4, "channels": (4,), "dense": (8,), "batch_size": 16}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--stage", choices=["imitate", "measure", "beside", "ship"], help="only this stage")
    parser.add_argument(
        "--only", choices=[*OPTIMIZERS, TEACHER, *PAPER_BASELINES], help="train or measure only this one"
    )
    parser.add_argument("--panel", choices=PANELS, help="measure only this one")
    parser.add_argument(
        "--schedule", choices=tuning.SCHEDULES[1:], help="measure two LSTMs beside a baseline whose rate follows it"
    )
    parser.add_argument("--no-scheduled", dest="scheduled", action="store_false", help="for the stage beside")
    parser.add_argument("--num-tasks", type=int, default=NUM_SEEDS)
    parser.add_argument("--tune-tasks", type=int, default=3)
    parser.add_argument("--num-trials", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", type=int)
    arguments = parser.parse_args()
    if arguments.quick and arguments.stage == "ship":
        parser.error("--quick ships nothing")
    if arguments.schedule and arguments.only not in (None, "two LSTMs", ANNEALED):
        parser.error(f"with --schedule only two LSTMs and {ANNEALED} are measured")
    if arguments.quick:
        arguments.panel, arguments.cores = "cifar10", 1
    l2o.use_all_cores(arguments.cores)
    plan, net = (QUICK, QUICK_NET) if arguments.quick else (FULL, paper.CIFAR_NET)
    key = jax.random.key(arguments.seed)
    folder = arguments.folder / "quick" if arguments.quick else arguments.folder
    folder.mkdir(parents=True, exist_ok=True)  # rather than find out after a quarter of an hour
    stages = [arguments.stage] if arguments.stage else ["imitate", "measure"]
    for i, (name, (labels, pair, _)) in enumerate(OPTIMIZERS.items()):
        if arguments.only not in (None, name) or (arguments.quick and name != "two LSTMs"):
            continue  # one of them is quick enough: compiling is what takes time
        start_key, runs_key = jax.random.split(jax.random.fold_in(key, i))
        if "imitate" in stages and not saved(folder, name).exists():
            family = convnet.family(**net, labels=labels)
            if pair:
                start, teachers = students(start_key, plan.horizon, CONSTANTS), TEACHERS
            else:
                start = student(start_key, plan.horizon, **ONE_CONSTANTS)
                teachers = dict.fromkeys(TEACHERS, ONE_TEACHER)
            started = time.perf_counter()
            optimizer = imitate(start, teachers, [family], plan, runs_key)
            seconds = round(time.perf_counter() - started)
            l2o.pretrained.save(
                saved(folder, name), optimizer, recipe=recipe(arguments, {**net, "labels": labels}, plan, seconds)
            )
    if arguments.stage == "ship":
        two = saved(folder, "two LSTMs")
        told = l2o.pretrained.header(two)
        l2o.pretrained.save(SHIPPED, l2o.load(two), recipe=told["recipe"], family=convnet.family(**net))
    if "measure" in stages:
        for panel in PANELS:
            if arguments.panel in (None, panel):
                measure(folder, panel, arguments, jax.random.fold_in(key, 2**20))
    if "beside" in stages:
        beside(folder, arguments.panel or "cifar10", arguments, jax.random.fold_in(key, 2**20))


def saved(folder, name):
    return folder / f"{name.lower().replace(' ', '-')}.safetensors"


def recipe(arguments, task_arguments, plan, seconds):
    return {
        "task": "convnet",
        "task_arguments": task_arguments,
        "horizon": plan.horizon,
        "stages": [f"imitation of an annealed momentum rule on recorded gradients, {plan.num_steps} meta-steps"],
        "num_episodes": plan.num_recorded,
        "num_inner_steps": plan.num_recorded * plan.horizon,
        "seed": arguments.seed,
        "seconds": seconds,
        "machine": "CPU, one busy core",
        "command": "python experiments/cifar.py",
    }


def measure(folder, name, arguments, key):
    trained = {n: saved(folder, n) for n, (_, _, panels) in OPTIMIZERS.items() if name in panels}
    contenders = {n: path for n, path in trained.items() if path.exists()}
    contenders |= {n: n for n in PAPER_BASELINES}
    if arguments.schedule:
        contenders = {n: c for n, c in contenders.items() if n in ("two LSTMs", ANNEALED)}
    if arguments.only == TEACHER:
        contenders[TEACHER] = together(TEACHERS)
    if arguments.only:
        contenders = {n: c for n, c in contenders.items() if n == arguments.only}
    if not contenders:
        return
    suffix = f"-{arguments.schedule}" if arguments.schedule else ""
    results = folder / f"paper-{name}{suffix}"
    comparison.compare(
        {name: paper.panels(arguments.quick)[name]},
        contenders,
        key=key,
        num_tasks=2 if arguments.quick else arguments.num_tasks,
        tune_tasks=2 if arguments.quick else arguments.tune_tasks,
        search=l2o.Search(
            3 if arguments.quick else arguments.num_trials,
            rates=(1e-3, 1.0),
            schedules=(arguments.schedule or "constant",),
        ),
        measure_costs=not arguments.only,
        folder=results,
        resume=(results / "comparison.json").exists(),
        on_done=lambda panel, optimizer, record: print(panel, optimizer, f"{record.seconds:.0f} s", flush=True),
    )
    if not arguments.only:
        _publish.publish(results, name + suffix, quick=arguments.quick)


def beside(folder, name, arguments, key):
    """The two LSTMs beside their teacher and scheduled baselines, on the first of the seeds that the panel's table has."""
    two, at = saved(folder, "two LSTMs"), folder / f"beside-{name}"
    contenders = {
        "two LSTMs": two if two.exists() else "lstm-cifar",
        TEACHER: together(TEACHERS),
        **_baselines.best_of_table(_publish.RESULTS / f"{name}.csv", name),
    }
    panels = {name: paper.panels(arguments.quick)[name]}
    options = {
        "key": key,
        "test_keys": jax.random.split(jax.random.split(key)[1], NUM_SEEDS)[
            : 2 if arguments.quick else arguments.num_tasks
        ],
        "tune_tasks": 2 if arguments.quick else arguments.tune_tasks,
        "on_done": lambda panel, optimizer, record: print(panel, optimizer, f"{record.seconds:.0f} s", flush=True),
    }
    comparison.compare(panels, contenders, folder=at, resume=(at / "comparison.json").exists(), **options)
    scheduled = []
    if arguments.scheduled:
        budget = _baselines.Budget(3 if arguments.quick else arguments.num_trials, RATES)
        scheduled = list(_baselines.compare(panels, budget, at / "scheduled", **options))
    _publish.publish(
        at,
        f"{name}-scheduled" if arguments.scheduled else f"{name}-teacher",
        quick=arguments.quick,
        figures=False,
        beside=scheduled,
        teachers={"two LSTMs": TEACHER},
    )


if __name__ == "__main__":
    main()
