"""Class accuracy: the share of samples that a classifier takes for the class they are to be.

Shapes: N samples, C classes.
"""

from dataclasses import replace

import torch

from bench.metrics.metric import Estimate, Given, Images, Metric, Network


def class_accuracy(logits_NC: torch.Tensor, labels_N: torch.Tensor) -> list[float]:
    """Of each class there are samples of, in order, the share that is recognised."""
    right_N = (logits_NC.argmax(1) == labels_N).double()
    return [float(right_N[labels_N == label].mean()) for label in labels_N.unique()]


def estimate(given: Given) -> Estimate:
    """Of all samples, and of each class."""
    assert given.labels_N is not None
    logits_NC = given.samples["logits"].cpu()
    by_class = class_accuracy(logits_NC, given.labels_N)
    return replace(given.share(logits_NC.argmax(1) == given.labels_N), by_class=by_class)


def lacks(samples: Images, network: Network) -> str:
    """Why this network cannot tell the classes of these samples, or ""."""
    if samples.labels is None:
        return f"nothing says which classes the images of {samples.name} are to be"
    if network.widths["logits"] <= samples.labels.max():
        return f"{network.name} does not know {samples.labels.max() + 1} classes"
    if network.name.startswith("inception"):
        return f"{network.name} counts classes in an order of its own"
    return ""


Metric(
    "class_accuracy",
    "class accuracy",
    "{:.1%}",
    350,
    lower_is_better=False,
    layer="logits",
    needs="classes",
    compute=estimate,
    lacks=lacks,
)
