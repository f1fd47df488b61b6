"""How a design spends its time: numbers of trials, tasks and generations, decided once and written down."""

from typing import Annotated, NamedTuple

import jax
from msgspec import Meta

# Shares of the time. What is left over is for looking, compiling what was not foreseen, and a machine that is busy.
_TUNING, _SEARCH, _VALIDATION, _TEST = 0.2, 0.55, 0.05, 0.07
POPULATION = 16
RUNS_A_GENERATION = 12  # for each task: all candidates on half of the tasks, half of them on the others
BASELINES = ("adam", "nag", "rmsprop", "sgd", "lion", "adamw")  # the first ones where there is no time for all
_GENERATIONS = 120  # wanted in all; with more time there are more tasks in each
# Of them, for each search of `Generations`, by how many there are in all.
_SHARES = (
    (70, (0.18, 0.18, 0.14, 0.1, 0.25, 0.15)),
    (30, (0.6, 0.0, 0.0, 0.25, 0.0, 0.15)),
    (0, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)),
)
_RACERS = 10  # at most so many take part in the race


# A plan is read from a file when a design goes on, so its numbers are bounded.
_Few = Annotated[int, Meta(ge=1, le=20)]
_Tasks = Annotated[int, Meta(ge=1, le=10_000)]
_Generations = Annotated[int, Meta(ge=0, le=1_000)]


class Tuning(NamedTuple):
    """How a baseline is tuned: a grid of rates and schedules on some tasks, then the best and their neighbours on more."""

    per_decade: _Few  # rates, from 1e-4 to 10
    schedules: Annotated[int, Meta(ge=1, le=3)]  # the first ones of `l2o.baselines.SCHEDULES`
    refined: _Few  # how many of the best trials are tried at rates a bit up and down as well
    more: _Few  # times as many tasks for these

    @property
    def runs(self) -> int:
        """For each task that the grid is judged on."""
        return (5 * self.per_decade + 1) * self.schedules + self.more * 3 * self.refined


FINE, COARSE = Tuning(2, 3, 3, 4), Tuning(1, 2, 1, 2)  # the second where runs take seconds


class Generations(NamedTuple):
    """Of each search; 0: it is left out."""

    from_adaptive: _Generations  # from the best of Adam, RMSprop, Lion and AdamW, as they were tuned
    from_plain: _Generations  # from the better of NAG and SGD
    further: _Generations  # from the better of the two
    rates: _Generations  # a rate for each kind of parameter
    parts: _Generations  # a whole set of constants for each
    cheap: _Generations  # with a power that costs no more than Adam


class Plan(NamedTuple):
    """What is to be done."""

    baselines: Annotated[int, Meta(ge=2, le=6)]  # how many of `BASELINES` are tuned
    tuning: Tuning
    tuning_tasks: _Tasks  # on which the grid is judged
    search_tasks: _Tasks  # in a generation
    generations: Generations
    validation_tasks: _Tasks
    test_tasks: _Tasks


def plan(seconds: float, runs_a_second: float, compiling: float) -> Plan:
    """For so many seconds, given how fast runs are, all candidates side by side, and what it takes to compile a program."""
    cores = len(jax.local_devices())

    def affordable(tuning):
        return int(_TUNING * seconds / (tuning.runs * cores / runs_a_second + compiling))

    tuning = FINE if affordable(FINE) >= 2 else COARSE
    baselines = min(len(BASELINES), max(2, affordable(tuning)))
    runs = max(0.0, _TUNING * seconds - baselines * compiling) * runs_a_second
    tuning_tasks = _whole(runs / (baselines * tuning.runs), cores, 64)
    runs = max(0.0, _SEARCH * seconds - 6 * compiling) * runs_a_second / RUNS_A_GENERATION
    search_tasks = _whole(runs / _GENERATIONS, 2 * cores, 256)
    total = int(min(3 * _GENERATIONS, max(8.0, runs / search_tasks)))
    # A search needs some twenty generations: where there are few, there are few searches.
    shares = next(shares for least, shares in _SHARES if total >= least)
    # 32 at least, where they can be had: fewer say little.
    judged = _VALIDATION * seconds * runs_a_second / _RACERS
    validation_tasks = _whole(max(judged, min(32.0, 3 * judged), 4 * cores), cores, 256)
    tests = int(_TEST * seconds * runs_a_second / _RACERS) // validation_tasks
    return Plan(
        baselines=baselines,
        tuning=tuning,
        tuning_tasks=tuning_tasks,
        search_tasks=search_tasks,
        generations=Generations(*(int(share * total) for share in shares)),
        validation_tasks=validation_tasks,
        test_tasks=min(max(tests, -(-32 // validation_tasks)), 4) * validation_tasks,  # one program does for both
    )


def _whole(number, multiple_of, most):
    """A number of tasks that all cores share evenly."""
    return max(1, int(min(number, most)) // multiple_of) * multiple_of
