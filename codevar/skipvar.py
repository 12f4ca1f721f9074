"""SkipVAR's decision: how much of its last scales an image needs (SkipVAR, Section 4, as its code
has it).

Shapes: B images, F features of an image, P plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from codevar.noise import hashed

Numbers = tuple[float, ...]
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
FAR = 0.4  # of the spectrum's half side: what is outside is high frequency


def features(before_B3HW: torch.Tensor, now_B3HW: torch.Tensor) -> torch.Tensor:
    """(B, 2) how much the edges changed with the last scale, and the share of the amplitude of high
    frequencies."""
    before_BHW, now_BHW = before_B3HW.mean(dim=1), now_B3HW.mean(dim=1)
    edges_B = (edges(now_BHW) - edges(before_BHW)).abs().mean(dim=(1, 2))
    amplitude_BHW = torch.fft.fft2(now_BHW).abs()
    y_H, x_W = (torch.fft.fftfreq(n, 1 / n, device=now_BHW.device) for n in now_BHW.shape[1:])
    far_HW = (y_H[:, None].square() + x_W.square()).sqrt() > FAR * min(now_BHW.shape[1:]) / 2
    share_B = (amplitude_BHW * far_HW).sum(dim=(1, 2)) / amplitude_BHW.sum(dim=(1, 2))
    return torch.stack((edges_B, share_B), dim=1)


def edges(grey_BHW: torch.Tensor) -> torch.Tensor:
    """(B, H, W) magnitudes of Sobel's gradients."""
    kernel_33 = torch.tensor(SOBEL, device=grey_BHW.device)
    kernels_2133 = torch.stack((kernel_33, kernel_33.T))[:, None]
    gradients_B2HW = F.conv2d(grey_BHW[:, None], kernels_2133, padding=1)
    return gradients_B2HW.square().sum(dim=1).sqrt()


@dataclass(frozen=True)
class Regression:
    """Logistic: a class for each image.  weights: by class, of each feature.  bias: by class."""

    weights: tuple[Numbers, ...]
    bias: Numbers

    def __call__(self, x_BF: torch.Tensor) -> torch.Tensor:
        """(B,) the likeliest class."""
        weights_CF, bias_C = (torch.tensor(n).to(x_BF) for n in (self.weights, self.bias))
        return (x_BF @ weights_CF.T + bias_C).argmax(dim=1)

    @classmethod
    def fitted(cls, x_NF: torch.Tensor, y_N: torch.Tensor, classes: int) -> Regression:
        """To features and their classes, with weak decay, so that it is the same every time."""
        weights_CF = torch.zeros(classes, x_NF.shape[1], dtype=torch.float64, requires_grad=True)
        bias_C = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
        fit = torch.optim.LBFGS([weights_CF, bias_C], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            fit.zero_grad()
            wrong = F.cross_entropy(x_NF.double() @ weights_CF.T + bias_C, y_N)
            total = wrong + 1e-3 * weights_CF.square().sum()
            total.backward()
            return total

        fit.step(loss)
        return cls(tuple(map(tuple, weights_CF.tolist())), tuple(bias_C.tolist()))


@dataclass(frozen=True)
class Decision:
    """`decide` of a branch: 0 goes on whole, 1..S without so many last scales, then S + 1.. without
    guidance from some scale on.

    mean, std: of the features.  skip: classes 0..S.  guidance: of what skips none: 0 keeps it.
    shares: of each decision; with them an image draws one, whatever it looks like: the control.
    """

    mean: Numbers
    std: Numbers
    skip: Regression
    guidance: Regression
    shares: Numbers = ()

    def __call__(
        self, before_B3HW: torch.Tensor, now_B3HW: torch.Tensor, salt_B: torch.Tensor
    ) -> torch.Tensor:
        """(B,) numbers of plans."""
        if self.shares:
            ends_P = torch.tensor(self.shares, device=salt_B.device).cumsum(0)
            drawn_B1 = (hashed(salt_B, (len(self.shares),), 1) & 0xFFFFFF).float() / 2**24
            return (drawn_B1 >= ends_P[:-1]).sum(dim=1)
        return self.of(features(before_B3HW, now_B3HW))

    def of(self, x_BF: torch.Tensor) -> torch.Tensor:
        """(B,) numbers of plans for what `features` gives."""
        mean_F, std_F = (torch.tensor(n, device=x_BF.device) for n in (self.mean, self.std))
        x_BF = (x_BF - mean_F) / std_F
        skipped_B, unguided_B = self.skip(x_BF), self.guidance(x_BF)
        later_B = torch.where(unguided_B > 0, len(self.skip.bias) - 1 + unguided_B, 0)
        return torch.where(skipped_B > 0, skipped_B, later_B)


def fitted(x_NF: torch.Tensor, labels: Sequence[torch.Tensor], classes: Sequence[int]) -> Decision:
    """A decision fitted to features and, of each stage, the right classes (N,)."""
    mean_F, std_F = x_NF.mean(dim=0), x_NF.std(dim=0).clamp_min(1e-12)
    z_NF, (skip_N, guidance_N) = (x_NF - mean_F) / std_F, labels
    skip = Regression.fitted(z_NF, skip_N, classes[0])
    guidance = Regression.fitted(z_NF, guidance_N, classes[1])
    return Decision(tuple(mean_F.tolist()), tuple(std_F.tolist()), skip, guidance)
