"""Update rules, one a file; `wrappers` make new ones of them, `pretrained` loads and saves them, `baselines` are optax's."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, ["baselines", "pretrained"])
