"""Training of everything the project decodes: VQVAE, VAR, CoDe's drafters and refiners, VARiant.

    recipes.py           what can be trained: a class each, its fields are the config's keys
    build.py             the model and the data of a recipe
    objectives.py        from a batch to its losses
    losses.py            the formulas: cross-entropy, KL, the quantiser's, pictures
    teacher_forcing.py   a VAR's forward in training, with no more scales and layers than wanted
    data.py              the mini world, folders of images, token maps kept on disk
    step.py              where a run is; all that is random is a function of it
    loop.py              the one loop
    optim.py             AdamW, Muon, rates
    budget.py            several trainings in a given time
    time_limit.py        how many steps fit into a time
    checkpoint.py        what a run leaves in its folder
    parallel.py          DDP and FSDP2

`bench.py train RECIPE --config FILE` is `train(recipes.load(FILE), out)`.  Configs of the mini
world and of the papers are in `experiments/train/`.
"""

from codevar.train.errors import TrainError

__all__ = ["TrainError"]
