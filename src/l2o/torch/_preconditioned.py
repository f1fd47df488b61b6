"""Twin of `l2o.Preconditioned`, where the equation is."""
# What torch's own optimizers are made of, `torch._foreach_*`, has no public name.
# pyright: reportPrivateImportUsage=false

import copy

import torch
from torch import Tensor

from l2o.torch._rule import AbstractListwise


class Preconditioned(AbstractListwise):
    """The updates of `rule`, each coordinate's multiplied by its factor. Parameters are told apart by their order and shapes."""

    def __init__(self, rule: AbstractListwise, factors: list[Tensor]):
        self.rule, self.factors = rule, factors
        self.numbers = rule.numbers
        self.paths = rule.paths

    def shapes(self, p):
        return self.rule.shapes(p)

    def to(self, device):
        moved = copy.copy(self)
        moved.rule = self.rule.to(device)
        moved.factors = [f.to(device) for f in self.factors]
        return moved

    def check(self, params):
        found, expected = [tuple(p.shape) for p in params], [tuple(f.shape) for f in self.factors]
        if found != expected:
            raise ValueError(
                f"This rule has a factor for each coordinate of parameters of the shapes {expected}, and those of the group that "
                f"have gradients have {found}. Give the parameters in the order of JAX's leaves, which is that of their names "
                "in a dict, or take weights that are not preconditioned."
            )

    def move_(self, params, gradients, states, lr):
        moved = [torch.zeros_like(p) for p in params]
        self.rule.move_(moved, gradients, states, lr)
        torch._foreach_addcmul_(params, moved, [f.to(p.dtype) for f, p in zip(self.factors, params, strict=True)])
