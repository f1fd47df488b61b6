"""Twin of `l2o.Beyond`, where the equations are."""

import copy
import math

import torch
from torch import Tensor

from l2o.io.horizon import check_how
from l2o.torch._rule import AbstractCoordinatewise, AbstractFlat, AbstractListwise, Rule, chosen

_B1, _B2 = 0.9, 0.99


class Beyond(AbstractFlat):
    """`rule` up to step `horizon`, then what `how` says. Rows of the state: the rule's, steps taken, and the averages m, v, s."""

    def __init__(self, rule: AbstractFlat, horizon: int, how: str):
        check_how(how)
        most = int(2 / torch.finfo(rule.dtype).eps)  # up to where whole numbers can be told apart
        if 2 * horizon >= most:
            raise ValueError(
                f"Steps are counted in the rule's own {rule.dtype}, which can count to {most}, and the horizon is {horizon}. "
                "Load the weights in single precision, or pass beyond=None."
            )
        self.rule = rule
        self.horizon = horizon
        self.how = how
        self.dtype = rule.dtype
        self.state_shapes = {f"[0]{path}": shape for path, shape in rule.state_shapes.items()} | {"[1]": ()}
        if how == "fallback":
            self.state_shapes |= {f"[2][{i}]": () for i in range(3)}

    def to(self, device):
        moved = copy.copy(self)
        moved.rule = self.rule.to(device)
        return moved

    def steps(self, state: Tensor) -> int:
        """That the state of some coordinates has seen: the most of any; a look at the device's memory."""
        steps = state[self.rule.num_rows]
        return int(steps[steps.isfinite()].max()) if steps.isfinite().any() else 0

    def init(self, num, device):
        inner = self.rule.init(num, device)
        return torch.cat([inner, inner.new_zeros(4 if self.how == "fallback" else 1, num)])

    def update_(self, gradients, state, params):
        rows = self.rule.num_rows
        inner, step, averages = state[:rows], state[rows], state[rows + 1 :]
        proposed = self.rule.update_(gradients, inner, params)
        if self.how == "hold":
            after = torch.zeros_like(proposed)
        elif self.how == "anneal":
            factor = 0.5 * (1 + torch.cos(math.pi * (step / self.horizon - 1).clamp(0, 1)))
            after = torch.where(step < 2 * self.horizon, factor * proposed, 0)
        else:
            after = self._fallback(gradients, proposed, step, averages)
        proposed = torch.where(step < self.horizon, proposed, after)
        step.add_(1)
        if self.how != "fallback":
            step.clamp_(max=2 * self.horizon)
        return proposed

    def _fallback(self, gradients, proposed, step, averages):
        m, v, s = averages
        count, length = step + 1, proposed**2
        seen = torch.isfinite(gradients)
        m.copy_(torch.where(seen, _B1 * m + (1 - _B1) * gradients, m))
        v.copy_(torch.where(seen, _B2 * v + (1 - _B2) * gradients**2, v))
        window = count.clamp(max=max(1.0, self.horizon / 10))
        s.copy_(torch.where((step < self.horizon) & torch.isfinite(length), s + (length - s) / window, s))
        root = (v / (1 - _B2**count)).sqrt()
        direction = torch.where(root > 0, m / (1 - _B1**count) / torch.where(root > 0, root, 1), 0)
        return torch.where(seen, -s.sqrt() * (self.horizon / count) * direction, 0)


class CoordinatewiseBeyond(Beyond, AbstractCoordinatewise):
    """`Beyond` of a coordinatewise rule, which is one itself."""


class ListwiseBeyond(AbstractListwise):
    """`Beyond` of a rule on lists, as JAX's `WholeBeyond`. The state of a parameter is the rule's and `taken`, its steps."""

    def __init__(self, rule: AbstractListwise, horizon: int, how: str):
        check_how(how)
        if how == "fallback":
            raise ValueError(
                "beyond='fallback' goes on with the last steps of each coordinate, which are known of a rule on the vector of "
                f"all coordinates, got a {type(rule).__name__}. Pass 'hold', 'anneal' or None."
            )
        self.rule = rule
        self.horizon = horizon
        self.how = how
        self.numbers = {**rule.numbers, "taken": 0.0}  # a float, as in JAX
        self.paths = {name: f"[0]{path}" for name, path in rule.paths.items()} | {"taken": "[1]"}

    def to(self, device):
        moved = copy.copy(self)
        moved.rule = self.rule.to(device)
        return moved

    def shapes(self, p):
        return self.rule.shapes(p)

    def check(self, params):
        self.rule.check(params)

    def move_(self, params, gradients, states, lr):
        by_factor: dict[float, list[int]] = {}
        for i, state in enumerate(states):
            by_factor.setdefault(self._factor(state["taken"]), []).append(i)
            state["taken"] += 1
        for factor, indices in by_factor.items():
            now = chosen(params, indices), chosen(gradients, indices), chosen(states, indices)
            self.rule.move_(*now, lr * factor)

    def _factor(self, step) -> float:
        if step < self.horizon:
            return 1.0
        if self.how == "hold" or step >= 2 * self.horizon:
            return 0.0
        return 0.5 * (1 + math.cos(math.pi * (step / self.horizon - 1)))


def beyond(rule: Rule, horizon: int, how: str) -> Beyond | ListwiseBeyond:
    """`rule` that does what `how` says after `horizon` steps.

    **Raises:** `ValueError` for a `how` that does not exist, or that is not for this rule.
    """
    if isinstance(rule, AbstractListwise):
        return ListwiseBeyond(rule, horizon, how)
    return (CoordinatewiseBeyond if isinstance(rule, AbstractCoordinatewise) else Beyond)(rule, horizon, how)
