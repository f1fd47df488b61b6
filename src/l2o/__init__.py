"""l2o: learned optimizers, meta-trained by gradient descent on the problems you care about.

The public names are listed in __init__.pyi and imported when first used, so that `import l2o` and `l2o --help` cost nothing.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
