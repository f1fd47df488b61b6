from . import baselines as baselines
from . import data as data
from . import pretrained as pretrained
from ._beyond import Beyond, CoordinatewiseBeyond, beyond
from ._devices import use_all_cores
from ._inner import (
    AbstractInnerProblem,
    Blocks,
    InnerState,
    InnerTraining,
    Sampled,
    SecondOrder,
    Stored,
    begin,
    start,
    unroll,
)
from ._optimizer import AbstractCoordinatewise, AbstractFlat, AbstractLearnedOptimizer
from ._panel import Panel
from ._task import AbstractTask, FunctionTask, TaskFamily, check_family
from .chained import Chained, chain
from .estimators import AbstractGradientEstimator, Estimate
from .evaluation import Curves, evaluate, loss_curves
from .explanation import Explanation, explain
from .guarded import Guarded
from .meta_training import MetaTrained, Validation, default_outer_optimizer, meta_train
from .mixture import Mixture
from .partitioned import Partitioned
from .pretrained import load
from .random_scaling import RandomScaling
from .rescaled import Rescaled
from .statistics import bootstrap_interval, ratio_interval
from .tuning import Search, Trial, Tuned, tune

__version__: str

__all__ = [
    "AbstractCoordinatewise",
    "AbstractFlat",
    "AbstractGradientEstimator",
    "AbstractInnerProblem",
    "AbstractLearnedOptimizer",
    "AbstractTask",
    "Beyond",
    "Blocks",
    "Chained",
    "CoordinatewiseBeyond",
    "Curves",
    "Estimate",
    "Explanation",
    "FunctionTask",
    "Guarded",
    "InnerState",
    "InnerTraining",
    "MetaTrained",
    "Mixture",
    "Panel",
    "Partitioned",
    "RandomScaling",
    "Rescaled",
    "Sampled",
    "Search",
    "SecondOrder",
    "Stored",
    "TaskFamily",
    "Trial",
    "Tuned",
    "Validation",
    "baselines",
    "begin",
    "beyond",
    "bootstrap_interval",
    "chain",
    "check_family",
    "data",
    "default_outer_optimizer",
    "evaluate",
    "explain",
    "load",
    "loss_curves",
    "meta_train",
    "pretrained",
    "ratio_interval",
    "start",
    "tune",
    "unroll",
    "use_all_cores",
]
