"""Writes the size of the gradients that they know into the headers of the shipped weights: python experiments/measure_scale.py

    python experiments/measure_scale.py [NAME ...] [--quick]

Runs every optimizer 16 times on the family that its recipe names (`gradient_scale`) and saves it again; arrays, recipe and
licence stay. Up to a minute each, but 16 for `lstm-cifar`; full MNIST or CIFAR-10 for those trained on it (docs/data.md).
`--quick` takes the shipped sample, and only prints.
"""

import argparse

import l2o
from l2o.core import plugins, scale
from l2o.io import weights as _weights

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("names", nargs="*", default=l2o.pretrained.names())
parser.add_argument("--quick", action="store_true")
arguments = parser.parse_args()
for name in arguments.names:
    optimizer, header = l2o.load(name), l2o.pretrained.header(name)
    recipe = header["recipe"]
    options = dict(recipe.get("task_arguments", {}))
    if arguments.quick and "data" in options:
        options["data"] = "mnist_sample"
    family = plugins.get("tasks", recipe["task"]).family(**options)
    if arguments.quick:
        print(name, scale.gradient_scale(optimizer, family, horizon=recipe["horizon"]))
        continue
    l2o.pretrained.save(_weights.shipped(name), optimizer, recipe=recipe, licence=header["licence"], family=family)
    print(name, l2o.pretrained.header(name)["scale"], flush=True)
