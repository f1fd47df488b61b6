"""Records a training loop, so that the meta-gradient can be computed from the gradients it saw (`l2o.meta.recording`)."""

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from l2o.torch._coordinates import count, flat
from l2o.torch._optimizer import LearnedOptimizer
from l2o.torch._plain import same_weights
from l2o.torch._rule import AbstractListwise


@dataclasses.dataclass
class Recording:
    """All that the meta-gradient of an unroll needs, of parameters that were stepped together. Coordinates last."""

    params: Tensor  # [num] before the first step
    state: dict[str, Tensor]  # [..., num] by path, before the first step
    gradients: Tensor  # [length, num]
    losses: Tensor  # [length]
    lr: Tensor  # [length]
    weight_decay: Tensor  # [length]


class Recorder(TorchFunctionMode):
    r"""Records the steps that a `LearnedOptimizer` takes inside a `with`, in a training loop that knows nothing of it.

    ```python
    recorder = l2o.torch.Recorder()
    for x, y in batches:
        with recorder:  # or around the whole loop
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    ```

    Per step it keeps the gradient, [num], and the loss: the value that `backward()` was called on, or the sum of them where
    gradients are accumulated. `recordings()` hands them over, to `l2o.meta.recording.meta_gradient`.

    **Raises:** `ValueError` in the loop, if the steps recorded are of more than one optimizer or of groups with weights of
    their own, if other parameters have gradients than in the first step, or if a step comes without any `backward()`. What
    was recorded before stays, but nothing can be added after a step that is missing.
    """

    def __init__(self):
        super().__init__()
        self._optimizer: LearnedOptimizer | None = None
        self._before: dict[Tensor, tuple[Tensor, Tensor | None]] = {}
        self._batches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []  # which parameters, and what was recorded
        self._losses: list[Tensor] = []
        self._loss: Tensor | None = None
        self._hooks: list[Any] = []
        self._depth = 0
        self._missing = False  # a step was taken and could not be recorded

    def __enter__(self):
        self._depth += 1
        if self._depth > 1:  # around the whole loop and around its lines: one recorder sees every step once
            return self
        self._hooks = [register_optimizer_step_pre_hook(self._pre), register_optimizer_step_post_hook(self._post)]
        return super().__enter__()

    def __exit__(self, *exception):
        self._depth -= 1
        if self._depth:
            return
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*exception)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.backward:
            value = args[0].detach()
            self._loss = value if self._loss is None else self._loss + value
        return func(*args, **(kwargs or {}))

    def _pre(self, optimizer, args, kwargs):
        if not isinstance(optimizer, LearnedOptimizer):
            return
        if self._missing:
            raise ValueError("A step is missing from this recording, which cannot go on. Use a new Recorder.")
        if not self._batches:
            first, *others = optimizer.param_groups
            if any(not _same_rule(group, first) for group in others):
                raise ValueError("A recording is of one rule, but the optimizer's groups have weights of their own.")
            if isinstance(optimizer._rule(0, torch.device("cpu")), AbstractListwise):
                raise ValueError(
                    f"A recording is replayed for blocks of coordinates, which {first['weights']['architecture']} does not "
                    "take. Meta-train it on a task in JAX."
                )
            self._optimizer = optimizer
            for group in optimizer.param_groups:
                for p in group["params"]:
                    state = optimizer.state.get(p, {}).get("state")
                    self._before[p] = p.detach().clone(), None if state is None else state.clone()
        elif self._optimizer is not optimizer:
            raise ValueError(
                "A recording is of one optimizer; a second LearnedOptimizer took a step. Use a new Recorder."
            )

    @torch.no_grad()
    def _post(self, optimizer, args, kwargs):
        if not isinstance(optimizer, LearnedOptimizer):
            return
        self._missing = True
        if self._loss is None:
            raise ValueError(
                "A step was taken without a `backward()` seen by the recorder. Put both inside `with recorder:`."
            )
        seen = list(optimizer._batches())
        if not seen:
            raise ValueError("A step was taken in which no parameter had a gradient: there is nothing to record.")
        if not self._batches:
            self._batches = [(tuple(b.params), self._start(b)) for b in seen]
        if not _same_params(seen, self._batches):
            raise ValueError(
                "Other parameters have gradients than in the first step recorded. Record loops in which all parameters "
                "that are trained get a gradient at every step."
            )
        for batch, (params, record) in zip(seen, self._batches, strict=True):
            record["gradients"].append(torch.cat([flat(p.grad) for p in params]).to(record["params"].dtype))
            record["lr"].append(float(batch.group["lr"]))
            record["weight_decay"].append(float(batch.group["weight_decay"]))
        self._losses.append(self._loss)
        self._loss = None
        self._missing = False

    def _start(self, batch):
        rule = batch.rule
        params, states = zip(*(self._before[p] for p in batch.params), strict=True)
        states = [rule.init(count(p), p.device) if s is None else s for p, s in zip(params, states, strict=True)]
        return {
            "params": torch.cat([flat(p) for p in params]).to(rule.dtype),
            "state": rule.unpack(torch.cat(states, dim=1)),
            "gradients": [],
            "lr": [],
            "weight_decay": [],
        }

    def recordings(self) -> list[Recording]:
        """What was recorded: one recording of every group (and device) of the optimizer.

        **Raises:** `ValueError` if no step was.
        """
        if not self._batches:
            raise ValueError("Nothing was recorded: no LearnedOptimizer took a step inside `with recorder:`.")
        losses = torch.stack([loss.to("cpu", torch.float64) for loss in self._losses])
        return [
            Recording(
                params=record["params"],
                state=record["state"],
                gradients=torch.stack(record["gradients"]),
                losses=losses.to(record["params"].dtype),
                lr=torch.tensor(record["lr"], dtype=record["params"].dtype),
                weight_decay=torch.tensor(record["weight_decay"], dtype=record["params"].dtype),
            )
            for _, record in self._batches
        ]


def _same_rule(group, other) -> bool:
    return group.get("part") == other.get("part") and same_weights(group["weights"], other["weights"])


def _same_params(batches, recorded) -> bool:
    some, others = [list(batch.params) for batch in batches], [list(params) for params, _ in recorded]
    return [list(map(id, params)) for params in some] == [list(map(id, params)) for params in others]
