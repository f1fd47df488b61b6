"""Twin of `l2o.Rescaled`, where the equation is."""

import copy
import math

import torch

from l2o.torch._rule import AbstractFlat


class Rescaled(AbstractFlat):
    """`rule` on gradients multiplied by one number. The last row of the state holds it; 0: not known yet."""

    def __init__(self, rule: AbstractFlat, rms: float):
        self.rule = rule
        self.rms = rms
        self.dtype = rule.dtype
        self.state_shapes = {f"[0]{path}": shape for path, shape in rule.state_shapes.items()} | {"[1]": ()}

    def to(self, device):
        moved = copy.copy(self)
        moved.rule = self.rule.to(device)
        return moved

    def init(self, num, device):
        inner = self.rule.init(num, device)
        return torch.cat([inner, inner.new_zeros(1, num)])

    def update_(self, gradients, state, params):
        inner, factor = state[:-1], state[-1]
        found = torch.linalg.vector_norm(gradients) / math.sqrt(max(1, len(gradients)))
        known = (found > 0) & torch.isfinite(found)
        factor.copy_(torch.where((factor == 0) & known, self.rms / found, factor))
        scaled = torch.where(factor == 0, gradients, factor * gradients)
        return self.rule.update_(scaled, inner, params)
