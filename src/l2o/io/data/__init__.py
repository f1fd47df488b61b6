"""Labelled images and tables, and texts, as NumPy arrays: `load("mnist")`, `load_text("persuasion")`, `names()`, `describe`.

`load` reads the first of these that is there:

1. `$L2O_DATA/NAME.npz`, a folder of the user's own;
2. `NAME.npz` in the cache, `$XDG_CACHE_HOME/l2o` or the system's place for caches;
3. the folder of a system package (Debian's `dataset-fashion-mnist`);
4. the publisher's files, downloaded, held against their checksums, and kept in the cache.

`mnist_sample`, 10,000 real images, the tables and the text ship in the package and need none of these. All sets, their
publishers and licences are listed in `_sources.py`.
"""

from l2o.io.data._formats import DataSet, Text
from l2o.io.data._load import describe, load, load_text, names
from l2o.io.data._style import Pictures, load_pictures, load_style, load_vgg16

__all__ = [
    "DataSet",
    "Pictures",
    "Text",
    "describe",
    "load",
    "load_pictures",
    "load_style",
    "load_text",
    "load_vgg16",
    "names",
]
