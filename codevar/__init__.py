"""Models and decoding of VAR, CoDe and VARiant.  Knows nothing of benchmarks."""

import lazy_loader

# The names are in `__init__.pyi`; each is imported when it is first used, so that what needs no
# torch, as a command line that is refused, does not wait for it.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
