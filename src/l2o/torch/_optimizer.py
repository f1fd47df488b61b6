"""Learned optimizers as `torch.optim.Optimizer`."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from l2o.io import weights as _weights
from l2o.io.horizon import passed
from l2o.torch import _build, _state_dict
from l2o.torch._beyond import Beyond, ListwiseBeyond
from l2o.torch._coordinates import add_, check_gradient, count, flat, named
from l2o.torch._options import check_finite, contents, name_of, rate
from l2o.torch._rule import AbstractCoordinatewise, AbstractListwise, Rule, precise

# On a CPU the coordinates are stepped in blocks of this many per thread, so that a block's gates and state stay in cache.
_BLOCK = 4096


class Batch(NamedTuple):
    """Parameters that are stepped together: those of one group that are on one device."""

    group: dict[str, Any]
    rule: Rule
    params: list[Tensor]
    key: tuple[int, torch.device]


class LearnedOptimizer(torch.optim.Optimizer):
    r"""A learned update rule, $\theta \leftarrow (1 - \eta\lambda)\,\theta + \eta\,u$ with $[u, h] = m(\nabla, h; \varphi)$.

    Every tensor of a group is stepped in one batch, its coordinates concatenated; a complex parameter has two real coordinates
    for each entry, as in `torch.optim`. The rule computes in the dtype of its weights (single precision for those that ship),
    whatever that of the parameters: bfloat16 parameters are updated in single precision and rounded once. Parameters without
    a gradient are left alone, their state too. A rule of a few constants, `l2o.Momentum`, takes the tensors as they are, in
    their own dtype if that is no coarser than single precision, and a complex number as one.

    Rules with global averaging cells average over all coordinates that are stepped together: those of one *group* that have a
    gradient (and are on one device). Groups do not see each other, as they may have rules and rates of their own: in JAX
    that is one optimizer for each group.

    ```python
    optimizer = l2o.torch.LearnedOptimizer(model.parameters(), "lstm-mnist")
    ```

    A file is read once, here. From then on a group's "weights" are what it held, in plain containers and tensors (some 10 kB),
    and so is every `state_dict`: it can be loaded where the file is not, or is another by now.

    **Arguments:**

    - `params`: as for any torch optimizer; groups may set `weights`, `part`, `lr` and `weight_decay` of their own.
    - `weights`: a shipped name (`l2o.torch.names()`), a file, or what `load_weights` or `l2o.pretrained.as_dict` return.
    - `lr`: $\eta$, multiplies the proposed update. 1 is what the rule was meta-trained for.
    - `weight_decay`: $\lambda$, decoupled from the gradient (Loshchilov & Hutter 2019).
    - `part`: of weights of a `l2o.Partitioned` optimizer, whose parts are for different kinds of parameters, the one to use:
        `LearnedOptimizer([{"params": convs, "part": "conv"}, {"params": rest, "part": "dense"}], path)`.
    - `beyond`: what happens after the steps that the rule was meta-trained for, of which it knows nothing: "hold" (the
        parameters stay where they are then, so that no run gets worse), "anneal", "fallback" (to go on training) or None
        (nothing), as of `l2o.load`; `l2o.Beyond` has the equations. A run that passes them warns once (`UserWarning`).

    **Raises:** `ValueError` for rates that are negative or not finite, for a parameter given twice, unknown or broken weights;
    `RuntimeError` from `step` for gradients that it does not take (sparse ones), before any parameter is changed. The first
    step warns (`UserWarning`) if the gradient is far larger or smaller than at the rule's training.
    """

    def __init__(
        self,
        params: Iterable[Any],
        weights: str | Path | dict[str, Any],
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        part: str | None = None,
        beyond: str | None = "hold",
    ):
        self._reset()
        super().__init__(
            params,
            {
                "weights": contents(weights),
                "lr": rate("lr", lr),
                "weight_decay": rate("weight_decay", weight_decay),
                "part": part,
                "beyond": beyond,
            },
        )

    def _reset(self):
        # Only conveniences: the rules are made from the groups' weights, the packed states hold what `self.state` shows.
        self._rules: dict[tuple[int, torch.device], tuple[Any, tuple[str | None, str | None], Rule]] = {}
        self._packed: dict[tuple[int, torch.device], tuple[Tensor, tuple[Tensor, ...]]] = {}
        self._steps: dict[tuple[int, torch.device], int] = {}  # of rules that have a horizon, which pass it once

    def __setstate__(self, state):
        super().__setstate__(state)
        self._reset()

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for index, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {index}")
            shown = {**group, "weights": name_of(group["weights"])}
            lines += [f"    {name}: {shown[name]}" for name in sorted(shown) if name != "params"]
        return "\n".join([*lines, ")"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; `weights`, `part`, `lr` and `weight_decay` default to the optimizer's.

        **Raises:** as the constructor; the optimizer is then unchanged.
        """
        if not isinstance(param_group, dict):
            raise TypeError(f"A group of parameters is a dict, got {type(param_group).__name__}.")
        options = {**self.defaults, **param_group}
        checked: dict[str, Any] = {name: rate(name, options[name]) for name in ("lr", "weight_decay")}
        checked["weights"] = contents(options["weights"])
        _build.build(checked["weights"], options["part"], options["beyond"])
        params = options["params"]
        if not isinstance(params, Tensor | set):  # which torch takes, and refuses
            checked["params"] = list(params)
            tensors = [p[1] if isinstance(p, tuple) else p for p in checked["params"]]
            first = {}
            for position, p in enumerate(tensors):
                if first.setdefault(id(p), position) != position:
                    raise ValueError(
                        f"Parameters {first[id(p)]} and {position} of group {len(self.param_groups)} are one tensor, which would "
                        "be stepped twice. Pass it once."
                    )
        param_group.update(checked)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters from their gradients; returns the closure's loss.

        **Raises:** `RuntimeError` for gradients that it does not take; `ValueError` if a rate is not finite, or a state does
        not fit. No parameter has then been changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = list(self._batches())  # all are checked before the first is stepped
        if not torch.compiler.is_compiling():
            for batch in batches:
                self._warn_of_scale(batch)  # which raises if warnings are errors
        for batch in batches:
            self._step(batch)
        if not torch.compiler.is_compiling():
            self._warn_of_horizon(batches)
        return loss

    def _batches(self) -> Iterator[Batch]:
        """The parameters that have gradients."""
        for index, group in enumerate(self.param_groups):
            by_device: dict[torch.device, list[Tensor]] = {}
            for position, p in enumerate(group["params"]):
                if p.grad is not None:
                    check_gradient(group, index, position)
                    self._check_state(index, position)
                    by_device.setdefault(p.device, []).append(p)
            if by_device and not torch.compiler.is_compiling():
                check_finite(group, index)
            for device, params in by_device.items():
                rule = self._rule(index, device)
                if isinstance(rule, AbstractListwise):
                    rule.check(params)
                yield Batch(group, rule, params, (index, device))

    def _check_state(self, index, position) -> None:
        group = self.param_groups[index]
        p = group["params"][position]
        rule = self._rule(index, p.device)
        if isinstance(rule, AbstractListwise):
            if (entry := self.state.get(p)) and (problem := rule.problem(entry, p)):
                raise ValueError(
                    f"The state of {named(group, index, position)} does not fit: {problem} The parameter's data or the group's "
                    "weights were replaced: make a new optimizer."
                )
            return
        state = self.state.get(p, {}).get("state")
        if state is None:
            return
        expected = rule.num_rows, count(p)
        if state.shape != expected:
            raise ValueError(
                f"The state of {named(group, index, position)} has shape {tuple(state.shape)}, and must have {expected}, a "
                "column for each coordinate. The parameter's data or the group's weights were replaced: make a new optimizer."
            )

    def _step_list(self, group, rule, params):
        for p in params:
            if not self.state[p]:
                self.state[p].update(rule.init(p))
        rule.step_(params, [self.state[p] for p in params], float(group["lr"]), float(group["weight_decay"]))

    def _step(self, batch):
        group, rule, params, _ = batch
        if isinstance(rule, AbstractListwise):
            self._step_list(group, rule, params)
            return
        gradients = torch.cat([flat(p.grad) for p in params]).to(rule.dtype)
        flat_params = torch.cat([flat(p) for p in params]).to(rule.dtype)
        state = self._gather(batch)
        updates = torch.empty_like(gradients)
        num = len(gradients)
        in_blocks = gradients.device.type == "cpu" and isinstance(rule, AbstractCoordinatewise)
        size = _BLOCK * torch.get_num_threads() if in_blocks else max(1, num)
        for start in range(0, num, size):
            block = slice(start, start + size)
            updates[block] = rule.update_(gradients[block], state[:, block], flat_params[block])
        updates.mul_(group["lr"])
        if group["weight_decay"]:
            updates.sub_(flat_params.mul_(group["lr"] * group["weight_decay"]))
        for p, update in zip(params, updates.split([count(p) for p in params]), strict=True):
            add_(p, update)

    def _gather(self, batch) -> Tensor:
        """The state of all coordinates as one matrix, of which `self.state[p]["state"]` are parts."""
        _, rule, params, key = batch
        states = [self.state[p].get("state") for p in params]
        if key in self._packed:
            packed, views = self._packed[key]
            if len(views) == len(states) and all(a is b for a, b in zip(views, states, strict=True)):
                return packed
        # The first step, or other parameters have gradients than in the last, or a state was loaded.
        packed = torch.cat([self._state_of(rule, p) for p in params], dim=1)
        views = packed.split([count(p) for p in params], dim=1)
        self._packed[key] = packed, views
        if isinstance(rule, Beyond) and key not in self._steps and not torch.compiler.is_compiling():
            self._steps[key] = rule.steps(packed)  # of a state that was loaded
        for p, view in zip(params, views, strict=True):
            # The shape says more than the number of columns, when the state is loaded for another parameter.
            self.state[p].update(state=view, shape=list(p.shape))
        return packed

    def _warn_of_scale(self, batch) -> None:
        weights = batch.group["weights"]
        if "scale" not in weights or any(self.state.get(p) for p in batch.params):
            return  # only of the first step
        gradients = torch.cat([flat(p.grad) for p in batch.params])
        norm = torch.linalg.vector_norm(gradients, dtype=precise(gradients.dtype))
        rms = float(norm) / math.sqrt(max(1, len(gradients)))
        _weights.warn_of_scale(name_of(weights), weights["scale"], rms, stacklevel=6)  # of who calls `step`

    def _warn_of_horizon(self, batches) -> None:
        told = {}
        for batch in batches:
            if isinstance(batch.rule, ListwiseBeyond):
                taken = max(self.state[p]["taken"] for p in batch.params)
            elif isinstance(batch.rule, Beyond):
                taken = self._steps[batch.key] = self._steps.get(batch.key, 0) + 1
            else:
                continue
            if taken == batch.rule.horizon + 1:
                told[passed(name_of(batch.group["weights"]), batch.rule.horizon, batch.rule.how)] = None
        for message in told:
            warnings.warn(message, UserWarning, stacklevel=5)  # of who calls `step`

    def _state_of(self, rule, p) -> Tensor:
        """[rows, count(p)]; that before the first step if it has taken none."""
        state = self.state.get(p, {}).get("state")
        return rule.init(count(p), p.device) if state is None else state.to(p.device, rule.dtype)

    def _rule(self, index, device) -> Rule:
        group = self.param_groups[index]
        known, options, rule = self._rules.get((index, device), (None, None, None))
        now = group.get("part"), group.get("beyond")
        if rule is None or known is not group["weights"] or options != now:
            group["weights"] = contents(group["weights"])  # may be set by hand
            rule = _build.build(group["weights"], *now).to(device)
            self._rules[index, device] = group["weights"], now, rule
        return rule

    def state_dict(self) -> dict[str, Any]:
        """The states, rates and weights of every group, in plain types that `torch.load` takes by its default."""
        for group in self.param_groups:
            group["weights"] = contents(group["weights"])
            # A schedule written with NumPy leaves its numbers.
            group.update({name: value.item() for name, value in group.items() if isinstance(value, np.generic)})
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned: states, rates and weights of every group.

        **Raises:** `ValueError` if it is of another optimizer, of other groups, or of other parameters, as far as their number,
        shapes and (where both optimizers were given them) names tell; or if a rate is not finite or its weights cannot be
        read. The optimizer is then unchanged.
        """
        checked: dict[str, Any] = {}

        def check(optimizer, found):
            checked.update(self._checked(found))
            return checked

        def put(optimizer):
            # torch casts a state to its parameter's dtype: for bfloat16 parameters that would be another state.
            for saved, group in zip(checked["param_groups"], self.param_groups, strict=True):
                for i, p in zip(saved["params"], group["params"], strict=True):
                    for name, value in (checked["state"].get(i) or {}).items():
                        if isinstance(value, Tensor):
                            self.state[p][name] = value.clone().to(p.device)

        # After the hooks that adapt a state_dict, and before those that look at the result.
        hooks = [
            self.register_load_state_dict_pre_hook(check),
            self.register_load_state_dict_post_hook(put, prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def _checked(self, state_dict) -> dict[str, Any]:
        """A state_dict that can be loaded, with its weights read."""
        _state_dict.check_groups(state_dict, self.param_groups, needed=("weights", "lr", "weight_decay"))
        groups, rules = [], []
        for index, (saved, group) in enumerate(zip(state_dict["param_groups"], self.param_groups, strict=True)):
            check_finite(saved, index)
            # One from before there were horizons has no "beyond", and the states of bare rules.
            weights, part, how = saved["weights"], saved.get("part"), saved.get("beyond")
            try:
                # Of an older version, which kept a name: ours may have been read from that very file before it was gone.
                known = isinstance(weights, str) and weights == name_of(group["weights"])
                weights = group["weights"] if known else contents(weights)
                rules.append(_build.build(weights, part, how))
            except ValueError as error:
                raise ValueError(f"Group {index} of the state_dict has weights that cannot be used. {error}") from error
            groups.append({"part": part, "beyond": how, **saved, "weights": weights})
        state_dict = {**state_dict, "param_groups": groups}
        _state_dict.check_states(state_dict, self.param_groups, rules)
        return state_dict
