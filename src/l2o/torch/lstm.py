"""The coordinatewise LSTM: twin of `l2o.optimizers.lstm`, where the equations are."""

import copy
import math

import torch
from torch import Tensor

from l2o.torch._rule import AbstractCoordinatewise, AbstractFlat


def _tanh_(x: Tensor) -> Tensor:
    """In place. By way of the logistic function: on a CPU torch's own tanh takes six times as long."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1)


def _preprocess(gradients: Tensor, p: float, out: Tensor) -> None:
    """`l2o.optimizers.lstm.preprocess`, into the two rows of `out`."""
    magnitude = gradients.abs()
    large = magnitude >= math.exp(-p)
    out[0] = torch.where(large, magnitude, 1.0).log_().div_(p).masked_fill_(~large, -1.0)
    out[1] = torch.where(large, gradients.sign(), math.exp(p) * gradients)


class _AbstractLSTM(AbstractFlat):
    """Rows of the state: hidden units of all layers, then cells of all layers."""

    def __init__(self, cells, readout, bias, *, num_units: int, preprocessing: float | None, output_scale: float):
        self.cells = cells  # (weight [4 units, inputs + units], bias [4 units, 1]) of each layer
        self.readout = readout  # [units]
        self.bias = bias
        self.num_units = num_units
        self.preprocessing = preprocessing
        self.output_scale = output_scale
        self.dtype = bias.dtype
        layers = range(len(cells))
        self.state_shapes = {f"[{layer}][{part}]": (num_units,) for part in (0, 1) for layer in layers}

    def to(self, device):
        moved = copy.copy(self)
        moved.cells = [(weight.to(device), bias.to(device)) for weight, bias in self.cells]
        moved.readout, moved.bias = self.readout.to(device), self.bias.to(device)
        return moved

    def average_(self, hidden: Tensor) -> None:
        """What a layer hands on of its new activations, [units, num], in place: in this class, all as it is."""

    def update_(self, gradients, state, params):
        units, layers = self.num_units, len(self.cells)
        hidden, memory = state[: layers * units], state[layers * units :]
        num_inputs = 1 if self.preprocessing is None else 2
        x = gradients.new_empty(num_inputs + units, len(gradients))
        if self.preprocessing is None:
            x[0] = gradients
        else:
            _preprocess(gradients, self.preprocessing, out=x[:2])
        x[num_inputs:] = hidden[:units]
        for layer, (weight, bias) in enumerate(self.cells):
            rows = slice(layer * units, (layer + 1) * units)
            gates = torch.addmm(bias, weight, x)
            gates[: 3 * units].sigmoid_()
            i, f, o, z = gates.split(units)
            c = memory[rows]
            c.mul_(f).addcmul_(i, _tanh_(z))
            torch.mul(o, _tanh_(z.copy_(c)), out=hidden[rows])
            self.average_(hidden[rows])
            # What the next layer is fed, this layer's new output and its own old one, are adjacent rows.
            x = hidden[layer * units : (layer + 2) * units]
        return (self.readout @ x[:units]).add_(self.bias).mul_(self.output_scale)


class LSTM(_AbstractLSTM, AbstractCoordinatewise):
    """Coordinatewise LSTM optimizer."""


class GlobalLSTM(_AbstractLSTM):
    """LSTM optimizer whose first `num_global` units in each layer are averaged over all coordinates stepped together."""

    def __init__(self, cells, readout, bias, *, num_global: int, **arguments):
        super().__init__(cells, readout, bias, **arguments)
        self.num_global = num_global

    def average_(self, hidden):
        hidden[: self.num_global] = hidden[: self.num_global].mean(dim=1, keepdim=True)


def build(
    arrays: dict[str, Tensor],
    *,
    num_global: int = 0,
    num_layers: int = 2,
    num_units: int = 20,
    preprocessing: float | None = 10.0,
    output_scale: float = 0.1,
) -> LSTM | GlobalLSTM:
    """The rule from a weights file's arrays; arguments as of `l2o.optimizers.lstm.build`.

    **Raises:** `ValueError` if an array is missing or of another shape, or they are not of one floating-point dtype.
    """
    sizes = [1 if preprocessing is None else 2] + [num_units] * num_layers
    expected: dict[str, tuple[int, ...]] = {".readout": (num_units,), ".bias": ()}
    for layer in range(num_layers):
        expected[f".cells[{layer}].weight"] = (4 * num_units, sizes[layer] + num_units)
        expected[f".cells[{layer}].bias"] = (4 * num_units,)
    for path, shape in expected.items():
        found = tuple(arrays[path].shape) if path in arrays else "nothing"
        if found != shape:
            raise ValueError(f"These weights do not fit their arguments (leaf {path}: {found} vs {shape}).")
    dtypes = {path: arrays[path].dtype for path in expected}
    if len(set(dtypes.values())) > 1 or not dtypes[".bias"].is_floating_point:
        raise ValueError(f"These weights are not of one floating-point dtype, which the rule computes in: {dtypes}.")
    cells = [(arrays[f".cells[{i}].weight"], arrays[f".cells[{i}].bias"][:, None]) for i in range(num_layers)]
    options = {"num_units": num_units, "preprocessing": preprocessing, "output_scale": output_scale}
    if num_global:
        return GlobalLSTM(cells, arrays[".readout"], arrays[".bias"], num_global=num_global, **options)
    return LSTM(cells, arrays[".readout"], arrays[".bias"], **options)
