"""How a design spends its time: numbers of trials, tasks and generations, decided once and written down."""

from typing import NamedTuple

import jax

# Shares of the time. What is left over is for looking, compiling what was not foreseen, and a machine that is busy.
_TUNING, _SEARCH, _VALIDATION, _TEST = 0.25, 0.45, 0.05, 0.1
POPULATION = 16
RUNS_A_GENERATION = 12  # for each task: all candidates on half of the tasks, half of them on the others
CHUNK = 11  # trials of a baseline in one program
TRIALS = 33  # of each baseline at first: 11 rates, with each of 3 schedules
BASELINES = ("adam", "nag", "rmsprop", "sgd", "lion", "adamw")  # the first ones where there is no time for all
_GENERATIONS = 120  # wanted in all; with more time there are more tasks in each


class Plan(NamedTuple):
    """What is to be done."""

    baselines: int  # how many of `BASELINES` are tuned
    tuning_tasks: int  # on which each trial is judged at first; the better ones on four times as many
    search_tasks: int  # in a generation
    generations: tuple[int, int, int, int]  # of each first search, of going on, with a cheap power, by parts
    validation_tasks: int
    test_tasks: int


def plan(seconds: float, runs_a_second: float, compiling: float) -> Plan:
    """For so many seconds, given how fast runs are, all candidates side by side, and what it takes to compile a program."""
    cores = len(jax.local_devices())
    one = (TRIALS + 4 * 9) * cores / runs_a_second + compiling  # a baseline on as few tasks as keep all cores busy
    baselines = max(2, min(len(BASELINES), int(_TUNING * seconds / one)))
    runs = max(0.0, _TUNING * seconds - baselines * compiling) * runs_a_second
    tuning_tasks = _whole(runs / (baselines * (TRIALS + 4 * 9)), cores, 64)
    runs = max(0.0, _SEARCH * seconds - 6 * compiling) * runs_a_second / RUNS_A_GENERATION
    search_tasks = _whole(runs / _GENERATIONS, 2 * cores, 256)
    generations = int(min(3 * _GENERATIONS, max(12.0, runs / search_tasks)))
    first, more, cheap = (max(4, int(share * generations)) for share in (0.2, 0.2, 0.15))
    validation_tasks = _whole(_VALIDATION * seconds * runs_a_second / 10, cores, 256, least=32)
    tests = max(1, int(_TEST * seconds * runs_a_second / 10) // validation_tasks)
    return Plan(
        baselines=baselines,
        tuning_tasks=tuning_tasks,
        search_tasks=search_tasks,
        generations=(first, more, cheap, max(4, generations - 2 * first - more - cheap)),
        validation_tasks=validation_tasks,
        test_tasks=min(tests, 4) * validation_tasks,  # one program does for both
    )


def _whole(number, multiple_of, most, least=1):
    """A number of tasks that all cores share evenly."""
    steps = max(int(min(number, most)), least)
    return max(1, -(-steps // multiple_of) if steps <= multiple_of else steps // multiple_of) * multiple_of
