"""The race at the end of a design: all on the same validation tasks, and who wins."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from l2o.core.optimizer import AbstractLearnedOptimizer
from l2o.evaluation.design import rules
from l2o.evaluation.design.journal import Journal
from l2o.evaluation.design.result import Candidate, surely_better

_LEVEL = 1.01  # a simpler or cheaper rule that is no worse than this is taken
_ROUNDS = 4  # of further validation tasks, for the one that would win
_ATTEMPTS = 3  # candidates that are tried so


class Entry(NamedTuple):
    """One that takes part."""

    rule: AbstractLearnedOptimizer
    what: str  # how it was made, in words
    baseline: bool  # hand-designed, and tuned


def validation_keys(key: PRNGKeyArray, num_tasks: int) -> tuple[Key[Array, " num_tasks"], Key[Array, " num_tasks"]]:
    """Of tasks on which those found are compared with one another as it goes on, and of those on which all race at the end."""
    first, second = jnp.split(jax.random.split(key, 2 * num_tasks), 2)
    return first, second


class Race:
    """The race on `num_tasks` tasks, and of the first on more of them; what was run is in the journal."""

    def __init__(
        self,
        journal: Journal,
        losses: Callable[[AbstractLearnedOptimizer, Key[Array, " num_tasks"]], Float[np.ndarray, " num_tasks"]],
        key: PRNGKeyArray,
        num_tasks: int,
        target: float | None,
    ):
        self.journal, self.losses, self.key, self.num_tasks, self.target = journal, losses, key, num_tasks, target

    def run(self, entries: Mapping[str, Entry]) -> list[Candidate]:
        """All on the same tasks, the best first."""
        keys = validation_keys(self.key, self.num_tasks)[1]
        candidates = []
        for name, entry in entries.items():
            find = lambda rule=entry.rule: self.losses(rule, keys)
            found = self.journal.losses(f"validated {name}", len(keys), find)
            candidates.append(Candidate(name, entry.rule, entry.baseline, found, entry.what, target=self.target))
        return sorted(candidates, key=lambda c: c.mean)

    def chosen(self, candidates: list[Candidate]) -> tuple[Candidate, Candidate]:
        """The winner, and the best baseline, which it is unless another is better beyond doubt.

        The one that would win is run on five times as many tasks as all, and must hold its own there: a rule that is far better
        on most tasks and ruins one in a thousand is not seen by a few.
        """
        baseline = next(c for c in candidates if c.baseline)
        ahead = [c for c in candidates if not c.baseline and c.mean < baseline.mean]
        for _ in range(_ATTEMPTS):
            sure = [c for c in ahead if surely_better(c, baseline)] or ahead[:1]
            if not sure:
                break
            best = min((c for c in sure if c.mean <= _LEVEL * sure[0].mean), key=rules.price, default=sure[0])
            if surely_better(*(self.on_more(c) for c in (best, baseline))):
                return best, baseline
            ahead.remove(best)
        return baseline, baseline

    def on_more(self, candidate: Candidate) -> Candidate:
        """With its losses on further validation tasks."""
        found = [candidate.validation]
        for i in range(1, _ROUNDS + 1):
            keys = jax.random.split(jax.random.fold_in(self.key, i), self.num_tasks)
            find = lambda keys=keys: self.losses(candidate.optimizer, keys)
            found.append(self.journal.losses(f"validated {candidate.name} {i}", len(keys), find))
        return candidate._replace(validation=np.concatenate(found))
