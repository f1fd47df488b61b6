"""Make the sample of MNIST that ships in the package: 800 training and 200 test images of each digit.

    python experiments/make_mnist_sample.py

Takes seconds. Reads all of MNIST by `l2o.data.load("mnist")`: from `$L2O_DATA`, the cache or the publisher.
Images and splits stay as they are; which images are taken, and their order, come from a fixed seed.
"""

from pathlib import Path

import numpy as np

import l2o
from l2o.io.data._formats import write_npz

TARGET = Path(l2o.data.__file__).parent / "samples" / "mnist.npz"


def stratified(images, labels, *, num_per_class, rng):
    """`num_per_class` images of every class, in random order."""
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:num_per_class] for c in np.unique(labels)]
    order = rng.permutation(np.concatenate(chosen))
    return images[order], labels[order]


def main():
    mnist = l2o.data.load("mnist")
    rng = np.random.RandomState(0)  # its stream stays the same in every NumPy, default_rng's need not
    train = stratified(mnist.x_train, mnist.y_train, num_per_class=800, rng=rng)
    test = stratified(mnist.x_test, mnist.y_test, num_per_class=200, rng=rng)
    write_npz(TARGET, l2o.data.DataSet(*train, *test))
    print(f"{TARGET}: {len(train[0]):,} + {len(test[0]):,} images, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
