"""A small weights file, and how it is made another."""

import json

import safetensors
import safetensors.numpy

RECIPE = {"task": "quadratic", "task_arguments": {"dim": 3}, "horizon": 4}


def rewritten(path, arrays=None, **header):
    """The file with some of its arrays, and header fields, replaced; None: left out."""
    with safetensors.safe_open(str(path), framework="numpy") as file:
        fields = {
            **file.metadata(),
            **{k: v if v is None or isinstance(v, str) else json.dumps(v) for k, v in header.items()},
        }
    found = {**safetensors.numpy.load_file(path), **(arrays or {})}
    found = {name: array for name, array in found.items() if array is not None}
    safetensors.numpy.save_file(found, path, {k: v for k, v in fields.items() if v is not None})
    return path
