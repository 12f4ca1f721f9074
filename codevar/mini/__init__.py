"""A small world: images made by program (`world`) and a classifier of them (`classifier`).

Its VQVAE and VARs are the project's own models at a small size, trained by `codevar.train` with
the configs of `experiments/train/`.
"""
