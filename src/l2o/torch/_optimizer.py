"""Learned optimizers as `torch.optim.Optimizer`."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from l2o import _weights
from l2o.torch import _build
from l2o.torch._rule import AbstractCoordinatewise, AbstractFlat

# On a CPU the coordinates are stepped in blocks of this many per thread, so that a block's gates and state stay in cache.
_BLOCK = 4096


def load_weights(name_or_path: str | Path, *, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Weights of a shipped optimizer, or from a file, a folder or "user/repo", as `l2o.load` takes them.

    They are "architecture", "arguments", "arrays" by path, and, where the header has it, "scale": of the gradients that the
    optimizer was meta-trained on.

    **Arguments:** `dtype`: that the optimizer computes, and keeps its state, in; default the file's (single precision).

    **Raises:** `ValueError` if there are none of that name, or the file is not whole or not of a learned optimizer.
    """
    leaves, header = _weights.read(_weights.resolve(name_or_path))
    arrays = {path: torch.from_numpy(leaf).to(dtype) for path, leaf in leaves.items()}
    weights = {"architecture": header["architecture"], "arguments": json.loads(header["arguments"]), "arrays": arrays}
    return {**weights, "scale": json.loads(header["scale"])} if "scale" in header else weights


class Batch(NamedTuple):
    """Parameters that are stepped together: those of one group that are on one device."""

    group: dict[str, Any]
    rule: AbstractFlat
    params: list[Tensor]
    key: tuple[int, torch.device]


class LearnedOptimizer(torch.optim.Optimizer):
    r"""A learned update rule, $\theta \leftarrow (1 - \eta\lambda)\,\theta + \eta\,u$ with $[u, h] = m(\nabla, h; \varphi)$.

    Every tensor of a group is stepped in one batch, its coordinates concatenated. The rule computes in the dtype of its
    weights (single precision for those that ship), whatever that of the parameters: bfloat16 parameters are updated in
    single precision and rounded once. Parameters without a gradient are left alone, their state too.

    Rules with global averaging cells average over all coordinates that are stepped together: those of one *group* that have a
    gradient (and are on one device). Groups do not see each other, as they may have rules and rates of their own: in JAX
    that is one optimizer for each group.

    ```python
    optimizer = l2o.torch.LearnedOptimizer(model.parameters(), "lstm-mnist")
    ```

    **Arguments:**

    - `params`: as for any torch optimizer; groups may set `weights`, `part`, `lr` and `weight_decay` of their own.
    - `weights`: a shipped name (`l2o.torch.names()`), a file, or what `load_weights` or `l2o.pretrained.as_dict` return.
    - `lr`: $\eta$, multiplies the proposed update. 1 is what the rule was meta-trained for.
    - `weight_decay`: $\lambda$, decoupled from the gradient (Loshchilov & Hutter 2019).
    - `part`: of weights of a `l2o.Partitioned` optimizer, whose parts are for different kinds of parameters, the one to use:
        `LearnedOptimizer([{"params": convs, "part": "conv"}, {"params": rest, "part": "dense"}], path)`.

    **Raises:** `ValueError` for negative rates, unknown or broken weights; `RuntimeError` from `step` for sparse or complex
    gradients. The first step warns (`UserWarning`) if the gradient is far larger or smaller than at the rule's training.
    """

    def __init__(
        self,
        params: Iterable[Any],
        weights: str | Path | dict[str, Any],
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        part: str | None = None,
    ):
        self._reset()
        super().__init__(params, {"weights": weights, "lr": lr, "weight_decay": weight_decay, "part": part})

    def _reset(self):
        # Only conveniences: the rules are made from the groups' weights, the packed states hold what `self.state` shows.
        self._rules: dict[tuple[int, torch.device], tuple[Any, AbstractFlat]] = {}
        self._packed: dict[tuple[int, torch.device], tuple[Tensor, tuple[Tensor, ...]]] = {}

    def __setstate__(self, state):
        super().__setstate__(state)
        self._reset()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; `weights`, `part`, `lr` and `weight_decay` default to the optimizer's."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for name in ("lr", "weight_decay"):
                if not group[name] >= 0:
                    raise ValueError(f"`{name}` must not be negative, got {group[name]}.")
            if isinstance(group["weights"], Path):
                group["weights"] = str(group["weights"])  # a state_dict holds plain types only
            self._rule(len(self.param_groups) - 1, torch.device("cpu"))
        except ValueError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters from their gradients; returns the closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for batch in self._batches():
            self._step(batch)
        return loss

    def _batches(self) -> Iterator[Batch]:
        """The parameters that have gradients."""
        for index, group in enumerate(self.param_groups):
            by_device: dict[torch.device, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    _check(p)
                    by_device.setdefault(p.device, []).append(p)
            for device, params in by_device.items():
                yield Batch(group, self._rule(index, device), params, (index, device))

    def _step(self, batch):
        group, rule, params, _ = batch
        gradients = torch.cat([p.grad.reshape(-1) for p in params]).to(rule.dtype)
        flat_params = torch.cat([p.reshape(-1) for p in params]).to(rule.dtype)
        if all("state" not in self.state[p] for p in params) and not torch.compiler.is_compiling():
            self._warn_of_scale(batch, gradients)  # before the first step
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
        for p, update in zip(params, updates.split([p.numel() for p in params]), strict=True):
            p.add_(update.view(p.shape))

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
        views = packed.split([p.numel() for p in params], dim=1)
        self._packed[key] = packed, views
        for p, view in zip(params, views, strict=True):
            self.state[p]["state"] = view
        return packed

    def _warn_of_scale(self, batch, gradients) -> None:
        weights = batch.group["weights"]
        in_memory = isinstance(weights, dict)
        scale = (weights if in_memory else load_weights(weights)).get("scale")
        if scale is not None:
            name = f"This {weights['architecture']} optimizer" if in_memory else weights
            rms = float(torch.linalg.vector_norm(gradients)) / math.sqrt(max(1, len(gradients)))
            _weights.warn_of_scale(name, scale, rms, stacklevel=7)  # of who calls `step`

    def _state_of(self, rule, p) -> Tensor:
        """[rows, p.numel()]; that before the first step if it has taken none."""
        state = self.state.get(p, {}).get("state")
        return rule.init(p.numel(), p.device) if state is None else state

    def _rule(self, index, device) -> AbstractFlat:
        weights, part = self.param_groups[index]["weights"], self.param_groups[index].get("part")
        known, rule = self._rules.get((index, device), (None, None))
        if rule is None or known is not weights:
            if isinstance(weights, dict):
                arrays = {path: _as_tensor(array) for path, array in weights["arrays"].items()}
                rule = _build.build({**weights, "arrays": arrays}, part).to(device)
            else:
                rule = _build.build(load_weights(weights), part).to(device)
            self._rules[index, device] = weights, rule
        return rule

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict` returned: states, rates and weights of every group."""
        super().load_state_dict(state_dict)
        # torch casts a state to its parameter's dtype: for bfloat16 parameters that would be another state.
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        ours = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, ours, strict=True):
            if i in state_dict["state"]:
                self.state[p]["state"] = state_dict["state"][i]["state"].to(p.device)
        self._reset()


def _as_tensor(array) -> Tensor:
    """Of anything that speaks DLPack or numpy."""
    return array.detach() if isinstance(array, Tensor) else torch.tensor(array)


def _check(p: Tensor) -> None:
    gradient = p.grad
    assert gradient is not None
    shape = tuple(p.shape)
    if gradient.layout != torch.strided:
        raise RuntimeError(
            f"LearnedOptimizer does not take sparse gradients, got one of layout {gradient.layout} for a parameter of shape "
            f"{shape}. Make it dense (for an embedding: sparse=False) or give that parameter to torch.optim.SparseAdam."
        )
    if gradient.is_complex():
        raise RuntimeError(
            f"LearnedOptimizer does not take complex gradients, got {gradient.dtype} for a parameter of shape {shape}. "
            "Hold the parameter as reals and view it as complex in the model (torch.view_as_complex)."
        )
