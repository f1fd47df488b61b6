"""Learned optimizers in PyTorch, on the same weights. Importing it, and using it, needs no JAX.

Every public module here is the twin of the architecture of that name in `l2o.optimizers`: it holds
`build(arrays, **arguments)`, which makes the update rule from a weights file's arrays and constructor arguments.
"""

from l2o.io.extras import extra as _extra

with _extra("torch", "l2o.torch"):
    import torch as _torch  # noqa: F401

from l2o.io.weights import names as names
from l2o.torch._optimizer import LearnedOptimizer
from l2o.torch._options import load_weights
from l2o.torch._recorder import Recorder, Recording
from l2o.torch._rule import AbstractCoordinatewise, AbstractFlat, AbstractListwise
from l2o.torch._states import load_state, save_state

__all__ = [
    "AbstractCoordinatewise",
    "AbstractFlat",
    "AbstractListwise",
    "LearnedOptimizer",
    "Recorder",
    "Recording",
    "load_state",
    "load_weights",
    "names",
    "save_state",
]
