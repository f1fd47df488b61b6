"""l2o: learned optimizers, meta-trained by gradient descent on the problems you care about."""

from l2o import baselines, data, pretrained
from l2o._devices import use_all_cores
from l2o._inner import (
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
from l2o._optimizer import AbstractCoordinatewise, AbstractLearnedOptimizer
from l2o._task import AbstractTask, FunctionTask, TaskFamily, check_family
from l2o.estimators import AbstractGradientEstimator, Estimate
from l2o.evaluation import Curves, bootstrap_interval, evaluate, loss_curves, ratio_interval
from l2o.meta_training import MetaTrained, Validation, default_outer_optimizer, meta_train
from l2o.pretrained import load
from l2o.tuning import Tuned, tune

__version__ = "0.1.0"

__all__ = [
    "AbstractCoordinatewise",
    "AbstractGradientEstimator",
    "AbstractInnerProblem",
    "AbstractLearnedOptimizer",
    "AbstractTask",
    "Blocks",
    "Curves",
    "Estimate",
    "FunctionTask",
    "InnerState",
    "InnerTraining",
    "MetaTrained",
    "Sampled",
    "SecondOrder",
    "Stored",
    "TaskFamily",
    "Tuned",
    "Validation",
    "baselines",
    "begin",
    "bootstrap_interval",
    "check_family",
    "data",
    "default_outer_optimizer",
    "evaluate",
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
