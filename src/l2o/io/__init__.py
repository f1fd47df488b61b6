"""What comes in from files and the net, and goes out: one door for all of it. Imports no JAX."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["data"])
