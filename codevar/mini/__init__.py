"""A small world: images made by program (`world`), a classifier of them (`classifier`).

Its VQVAE and VARs are the project's own models at a small size, trained by `codevar.train` with
the configs of `experiments/train/`.
"""

from codevar.mini.world import CLASSES, World

__all__ = ["CLASSES", "World"]
