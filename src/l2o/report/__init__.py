"""Tables, figures and pages of comparisons, and of explanations.

The public names are listed in __init__.pyi and imported when first used: a report of saved records imports no JAX.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
