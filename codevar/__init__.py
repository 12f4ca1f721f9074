"""Models and decoding of VAR, CoDe and VARiant.  Knows nothing of benchmarks."""

from codevar import plan
from codevar.checkpoints import PUBLISHED, CheckpointError, load_var, load_vqvae
from codevar.decode import decode
from codevar.editing import edit
from codevar.outputs import Decoded
from codevar.sampling import PRESETS, Sampling
from codevar.scales import PATCH_SIZES_256, PATCH_SIZES_512, Scales
from codevar.stacks import Stack, stack
from codevar.var import VAR, VARConfig
from codevar.vqvae import VQVAE, VQVAEConfig

__all__ = [
    "PATCH_SIZES_256",
    "PATCH_SIZES_512",
    "PRESETS",
    "PUBLISHED",
    "VAR",
    "VQVAE",
    "CheckpointError",
    "Decoded",
    "Sampling",
    "Scales",
    "Stack",
    "VARConfig",
    "VQVAEConfig",
    "decode",
    "edit",
    "load_var",
    "load_vqvae",
    "plan",
    "stack",
]
