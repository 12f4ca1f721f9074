"""Fourier spectra of what each scale adds to an image (CoDe, Figure 3 b).

CoDe speaks of the "feature maps produced by" the first and the last three scales and does not say
which maps.  The only ones of all scales that are of one size, and so have one axis of frequency,
are the residuals that the quantiser makes of the token maps: enlarged, smoothed, and added up to
what the decoder reads (f_hat is their sum).  Those are taken here, of generated images.

A map of p x p tokens, enlarged, has little above p / 2 cycles a side whatever a model predicts.
So the same tokens in random places are measured too: that much of a spectrum is how VAR is built,
and what differs from it is where a model puts its tokens.

Shapes: B images, L tokens of all scales, Z channels, h w cells of the feature map (h = w).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
import torch

from bench.study.printing import Printed
from codevar import VQVAE
from codevar.scales import Scales

EDGE = 3  # scales at either end, as in the paper
SHUFFLED = "the same tokens in random places of their map"
EARLY, LATE = matplotlib.colormaps["Blues"], matplotlib.colormaps["Oranges"]


@dataclass(frozen=True)
class Spectrum:
    """Of one scale, by ring of the frequency plane: cycles a side 0, 1, ... h / 2.

    amplitude: mean over images, channels and the ring's directions; of a map that is 1
    everywhere, 1 at frequency 0.  energy: share of the ring in the map's energy; sums to 1.
    """

    cycles: np.ndarray
    amplitude: np.ndarray
    energy: np.ndarray

    @property
    def high(self) -> float:
        """Share of the energy in the upper half of the frequencies."""
        return float(self.energy[self.cycles > self.cycles[-1] / 2].sum())


def spectrum(maps_BZhw: torch.Tensor) -> Spectrum:
    """The spectrum of maps (B, Z, h, w), h = w.

    A frequency belongs to the ring of the nearest whole number of cycles a side.  Corners, more
    than h / 2 cycles away, are in no direction complete and are left out.
    """
    side = maps_BZhw.shape[-1]
    plane_BZhw = torch.fft.fft2(maps_BZhw.double(), norm="forward").abs()
    cycles = torch.fft.fftfreq(side, 1 / side)
    ring_hw = torch.hypot(cycles[:, None], cycles[None, :]).round().long()
    rings = range(side // 2 + 1)
    inside = [plane_BZhw[..., ring_hw == ring] for ring in rings]
    energy = np.array([float(part.square().mean((0, 1)).sum()) for part in inside])
    amplitude = np.array([float(part.mean()) for part in inside])
    return Spectrum(np.array(rings), amplitude, energy / max(energy.sum(), 1e-30))


@torch.no_grad()
def residuals(vqvae: VQVAE, tokens_BL: torch.Tensor) -> list[torch.Tensor]:
    """(B, Z, h, w) what each scale adds to f_hat."""
    quantizer, scales = vqvae.quantize, vqvae.scales
    return [
        quantizer.feature_map(quantizer.codes(tokens_BL[:, where]), k, scales)
        for k, where in enumerate(scales.slices)
    ]


def shuffled(tokens_BL: torch.Tensor, scales: Scales, seed: int = 0) -> torch.Tensor:
    """(B, L) the same tokens, each in a random place of its own token map."""
    draws = torch.rand(tokens_BL.shape, generator=torch.Generator().manual_seed(seed))
    places = [draws[:, where].argsort(dim=1) + where.start for where in scales.slices]
    return tokens_BL.gather(1, torch.cat(places, dim=1).to(tokens_BL.device))


@dataclass(frozen=True)
class Spectra:
    """Of a method, by scale: of its images, and with the tokens of each scale shuffled."""

    method: str
    made: list[Spectrum]
    shuffled: list[Spectrum]


def spectra_of(method: str, vqvae: VQVAE, tokens_BL: torch.Tensor) -> Spectra:
    """Of the images that these tokens make."""
    both = (tokens_BL, shuffled(tokens_BL, vqvae.scales))
    made, mixed = ([spectrum(maps) for maps in residuals(vqvae, tokens)] for tokens in both)
    return Spectra(method, made, mixed)


def table(found: Sequence[Spectra]) -> pd.DataFrame:
    """A row for each method, scale and frequency."""
    return pd.DataFrame(
        [
            {
                "method": one.method,
                "scale": scale,
                "cycles_per_side": int(made.cycles[i]),
                "amplitude": made.amplitude[i],
                "energy_share": made.energy[i],
                "amplitude_shuffled": mixed.amplitude[i],
                "energy_share_shuffled": mixed.energy[i],
            }
            for one in found
            for scale, (made, mixed) in enumerate(zip(one.made, one.shuffled, strict=True), 1)
            for i in range(len(made.cycles))
        ]
    )


def printed(found: Sequence[Spectra]) -> Printed:
    """Share of each scale's energy in the upper half of the frequencies."""
    rows = []
    for one in found:
        for what, spectra in (("", one.made), ("shuffled", one.shuffled)):
            cells = {str(k): f"{spectrum.high:.1%}" for k, spectrum in enumerate(spectra, 1)}
            rows.append({"method": one.method, "tokens": what, **cells})
    notes = [f"Shuffled: {SHUFFLED}."]
    title = "Share of what a scale adds that lies in the upper half of the frequencies"
    return Printed(title, table(found), pd.DataFrame(rows), notes)
