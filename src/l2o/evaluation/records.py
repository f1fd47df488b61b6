"""What a comparison recorded: plain arrays and numbers, which are read without JAX.

`l2o.evaluation.store` is the folder that they are kept in.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from l2o.core.measured import Curves
from l2o.evaluation.costs import MetaTraining, StepCost
from l2o.evaluation.panel import Panel
from l2o.evaluation.trials import Tuned

if TYPE_CHECKING:
    from l2o.evaluation.table import Table


class Record(NamedTuple):
    """One cell: an optimizer's results on one panel."""

    curves: Curves
    tuned: Tuned | None = None  # of a tuned baseline: what was tried, and what was chosen
    learned: bool = False
    images: Float[np.ndarray, "num height width 3"] | None = (
        None  # at the end of the first tasks' runs, in [0, 1]; diverged: 0
    )
    seconds: float = float("nan")  # tuning and running on one device; compiling too, for the first of a program


class Comparison(NamedTuple):
    """All that was recorded. `records[panel][optimizer]` is missing where `left_out[panel][optimizer]` says why."""

    panels: dict[str, Panel]  # of a comparison that was loaded, `make` is gone
    optimizers: tuple[str, ...]  # all that were asked for
    records: dict[str, dict[str, Record]]
    left_out: dict[str, dict[str, str]]
    costs: dict[str, dict[str, StepCost]]
    meta_training: dict[str, MetaTraining]  # of the learned optimizers of which it is known
    settings: dict[str, Any]  # num_tasks, tune_tasks, search, key

    def table(self, steps: Sequence[int] | None = None) -> "Table":
        """A row per optimizer: mean losses with 95 % intervals, their ratio to the best baseline's, and the seconds of a run.

        Where costs were measured, also the mean loss in the time that the best baseline's run to the horizon takes, and the
        seconds that everyone takes to its loss. An asterisk marks those of whom too few steps were recorded for that time.

        ```python
        print(l2o.compare(panels, ["lstm-mnist", "adam"], key=key).table())
        ```

        **Arguments:** `steps`: at which losses are shown; default a tenth, half and all of a panel's horizon, and its `run_to`.

        **Raises:** `ValueError` for a step that a panel was not run to.
        """
        from l2o.evaluation.table import table_of  # which reads what is defined here

        return table_of(self, steps)


def load(folder: str | Path) -> Comparison:
    """What `l2o.compare` recorded in `folder`, complete or not.

    **Raises:** `FileNotFoundError` if the folder holds no comparison, `ValueError` naming the file where it holds one that is
    damaged or was not written by l2o.
    """
    from l2o.evaluation.store import Store

    return Store.reading(Path(folder)).comparison()
