"""Inception Score (Salimans et al., 2016), over splits of 5000 as OpenAI's evaluator has it.

torch-fidelity's is over ten splits.  Shapes: N samples, n of one of S splits, C classes, V values
of each image, R replicates.
"""

import math
import statistics

import torch

from bench.metrics.jackknife import Groups, Interval, interval
from bench.metrics.metric import Estimate, Given, Metric

SPLIT = 5000  # images of one Inception Score


def inception_scores(
    logits_NC: torch.Tensor, groups: Groups | None = None, split: int = SPLIT
) -> torch.Tensor:
    """(S, 1 + R) exp(E KL(p(y|x), p(y))) of each run of `split` images; the last may have
    fewer.  First of all its images, then without the groups that each replicate leaves out."""
    scores = []
    for first in range(0, len(logits_NC), split):
        log_p_nC = logits_NC[first : first + split].double().log_softmax(dim=1)
        one = torch.ones(len(log_p_nC), 1, dtype=torch.float64)
        minus_entropy_n1 = (log_p_nC.exp() * log_p_nC).sum(dim=1, keepdim=True)
        values_nV = torch.cat([one, minus_entropy_n1, log_p_nC.exp()], dim=1)
        sums_RV = values_nV.sum(dim=0, keepdim=True)
        if groups is not None:
            of_split = Groups(groups.group_N[first : first + split])
            of_replicates = groups.kept().double() @ of_split.sums(values_nV)
            sums_RV = torch.cat([sums_RV, of_replicates])
        means_RV = sums_RV[:, 1:] / sums_RV[:, :1]
        kl_R = means_RV[:, 0] - torch.special.xlogy(means_RV[:, 1:], means_RV[:, 1:]).sum(dim=1)
        scores.append(kl_R.exp())
    return torch.stack(scores)


def estimate(given: Given) -> Estimate:
    """The mean over the splits, which is what the evaluator prints."""
    logits_NC = given.samples["logits"].cpu()
    scores_SR, rest = inception_scores(logits_NC, given.groups), len(logits_NC) % SPLIT
    value, *replicates = scores_SR.nanmean(dim=0).tolist()  # NaN: a split of one group only
    spread = statistics.pstdev(scores_SR[:, 0].tolist()) if len(scores_SR) > 1 else None
    note = (
        f"IS is over splits of {SPLIT}, the last of {rest}: fewer images have a lower one."
        if rest and len(logits_NC) > SPLIT
        else None
    )
    return Estimate(
        value, replicates, with_unseen(value, replicates, len(logits_NC)), spread, None, note
    )


def with_unseen(value: float, replicates: list[float], images: int) -> Interval | None:
    """The 95 % interval, which reaches further down where few images make the whole spread.

    Near as many as there are classes, IS hangs on rare images of no clear class, of which a set
    may have none: 3 / N of a model's images may be such (the rule of three), each of which takes
    IS log(IS) / N away.
    """
    if not replicates:
        return None
    low, high = interval(value, replicates, 1.0)
    unseen = 3 / images * value * math.log(value)
    return max(1.0, value - math.hypot(value - low, unseen)), high


Metric(
    "inception_score",
    "IS",
    "{:.3g}",
    320,
    lower_is_better=False,
    low=1.0,
    high=1008.0,
    layer="logits",
    compute=estimate,
)
