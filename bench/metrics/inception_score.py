"""Inception Score (Salimans et al., 2016), over splits of 5000 as OpenAI's evaluator has it.

torch-fidelity's is over ten splits.  Shapes: N samples, C classes.
"""

from __future__ import annotations

import math
import statistics

import torch

from bench.metrics.metric import Estimate, Given, Metric

SPLIT = 5000  # images of one Inception Score


def inception_scores(logits_NC: torch.Tensor, split: int = SPLIT) -> list[float]:
    """exp(E KL(p(y|x), p(y))) of each run of `split` images; the last may have fewer."""
    scores = []
    for part_NC in logits_NC.double().split(split):
        log_p_NC = part_NC.log_softmax(dim=1)
        log_mean_C = log_p_NC.logsumexp(dim=0) - math.log(len(part_NC))
        kl_N = (log_p_NC.exp() * (log_p_NC - log_mean_C)).sum(dim=1)
        scores.append(float(kl_N.mean().exp()))
    return scores


def inception_score(logits_NC: torch.Tensor, split: int = SPLIT) -> float:
    return statistics.fmean(inception_scores(logits_NC, split))


def estimate(given: Given) -> Estimate:
    """The mean over the splits, which is what the evaluator prints."""
    logits_NC = given.samples["logits"].cpu()
    scores, rest = inception_scores(logits_NC), len(logits_NC) % SPLIT
    of_halves = [inception_score(logits_NC[mask]) for mask in given.masks()]
    spread = statistics.pstdev(scores) if len(scores) > 1 else None
    note = (
        f"IS is over splits of {SPLIT}, the last of {rest}: fewer images have a lower one."
        if rest and len(logits_NC) > SPLIT
        else None
    )
    return Estimate(statistics.fmean(scores), of_halves, spread=spread, note=note)


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
