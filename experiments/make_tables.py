"""Make the tables that ship in the package: UCI's Breast Cancer Wisconsin (Diagnostic), Wine and handwritten digits.

    pip install scikit-learn
    python experiments/make_tables.py

Takes seconds. Reads scikit-learn's copies of UCI's files. Values stay as they are (float32); a fifth of each class, chosen
by a fixed seed, is the test split.
"""

from pathlib import Path

import numpy as np
from sklearn import datasets

import l2o
from l2o.io.data._formats import write_npz

SAMPLES = Path(l2o.data.__file__).parent / "samples"
TABLES = {
    "breast_cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
    "digits": datasets.load_digits,
}


def split(labels, rng):
    """Indices of the training and of the test rows, each in random order."""
    train, test = [], []
    for c in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == c))
        num_test = len(rows) // 5
        test.append(rows[:num_test])
        train.append(rows[num_test:])
    return rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test))


def main():
    for name, read in TABLES.items():
        x, y = read(return_X_y=True)
        x, y = x.astype(np.float32), y.astype(np.int32)
        train, test = split(y, np.random.RandomState(0))  # its stream stays the same in every NumPy
        target = SAMPLES / f"{name}.npz"
        write_npz(target, l2o.data.DataSet(x[train], y[train], x[test], y[test]))
        print(f"{target}: {len(train)} + {len(test)} rows of {x.shape[1]}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
