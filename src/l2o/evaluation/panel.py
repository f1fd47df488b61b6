"""A panel: a task family with the horizon it is judged at. Suites are named panels."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from l2o.core.task import TaskFamily


class Panel(NamedTuple):
    """One plot of a comparison: a family, and for how many steps optimizers are run on it."""

    make: (
        "Callable[[], TaskFamily]"  # builds the family; called only when the panel is run, so data are loaded only then
    )
    horizon: int  # rates are tuned for the loss after this many steps, and tables show it
    run_to: int  # curves go on to this step, so that one sees what happens past the horizon
    source: str  # where the problem comes from: paper and section, data set, or that it is ours
    window: int = 1  # losses on minibatches are averaged over this many last steps
    batch_size: int | None = None  # tasks run at once; default all (large optimizees do not fit, or run faster, alone)
    data: tuple[str, ...] = ()  # data sets of `l2o.data` that it needs
    metrics_splits: tuple[str, ...] = ("test",)  # splits that metrics such as the accuracy are taken on

    @classmethod
    def of(
        cls, family: "TaskFamily", horizon: int, *, run_to: int | None = None, source: str = "ours", **others: Any
    ) -> "Panel":
        """The panel of a family that is at hand: `l2o.Panel.of(family, 100)`. Curves end at `run_to`, by default the horizon."""
        return cls(lambda: family, horizon, horizon if run_to is None else run_to, source, **others)
