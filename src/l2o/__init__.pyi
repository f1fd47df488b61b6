from . import tasks as tasks
from .core.curves import evaluate, loss_curves
from .core.inner_loop import InnerState, InnerStep
from .core.measured import Curves
from .core.meta_gradient.forms import AbstractMetaGradient, Blocks, Sampled, SecondOrder, Stored
from .core.optimizer import AbstractCoordinatewise, AbstractFlat, AbstractLearnedOptimizer
from .core.parallel import use_all_cores
from .core.task import AbstractTask, FunctionTask, TaskFamily, check_family
from .core.unroll import begin, start, unroll
from .evaluation.comparison import compare
from .evaluation.design import Designed, design
from .evaluation.explained import Explanation
from .evaluation.explanation import explain
from .evaluation.panel import Panel
from .evaluation.statistics import bootstrap_interval, ratio_interval
from .evaluation.trials import Trial, Tuned
from .evaluation.tuning import Search, tune
from .io import data as data
from .meta.distill import Distilled, distill
from .meta.estimators import AbstractGradientEstimator, Estimate
from .meta.estimators.bptt import BPTT
from .meta.estimators.mixture import Mixture
from .meta.estimators.pes import PES
from .meta.imitation import Imitation
from .meta.problems import AbstractInnerProblem, InnerTraining
from .meta.search import Searched, search
from .meta.step import MetaState, MetaTraining, default_outer_optimizer
from .meta.train import MetaTrained, meta_train
from .meta.validation import Validation
from .optimizers import baselines as baselines
from .optimizers import pretrained as pretrained
from .optimizers.hand_designed import HandDesigned
from .optimizers.lstm import LSTM
from .optimizers.momentum import Momentum
from .optimizers.ntm_bfgs import NTMBFGS
from .optimizers.pretrained import load, save
from .optimizers.wrappers.beyond import Beyond, CoordinatewiseBeyond, beyond
from .optimizers.wrappers.chain import Chained, chain
from .optimizers.wrappers.guarded import Guarded
from .optimizers.wrappers.partitioned import Partitioned
from .optimizers.wrappers.preconditioned import Preconditioned
from .optimizers.wrappers.rescaled import Rescaled
from .tasks.transforms import RandomScaling

__version__: str

__all__ = [
    "BPTT",
    "LSTM",
    "NTMBFGS",
    "PES",
    "AbstractCoordinatewise",
    "AbstractFlat",
    "AbstractGradientEstimator",
    "AbstractInnerProblem",
    "AbstractLearnedOptimizer",
    "AbstractMetaGradient",
    "AbstractTask",
    "Beyond",
    "Blocks",
    "Chained",
    "CoordinatewiseBeyond",
    "Curves",
    "Designed",
    "Distilled",
    "Estimate",
    "Explanation",
    "FunctionTask",
    "Guarded",
    "HandDesigned",
    "Imitation",
    "InnerState",
    "InnerStep",
    "InnerTraining",
    "MetaState",
    "MetaTrained",
    "MetaTraining",
    "Mixture",
    "Momentum",
    "Panel",
    "Partitioned",
    "Preconditioned",
    "RandomScaling",
    "Rescaled",
    "Sampled",
    "Search",
    "Searched",
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
    "compare",
    "data",
    "default_outer_optimizer",
    "design",
    "distill",
    "evaluate",
    "explain",
    "load",
    "loss_curves",
    "meta_train",
    "pretrained",
    "ratio_interval",
    "save",
    "search",
    "start",
    "tasks",
    "tune",
    "unroll",
    "use_all_cores",
]
