from . import plan
from .checkpoints import load_var, load_vqvae
from .config import VARConfig, VQVAEConfig
from .decoding import decode
from .editing import edit
from .files import PUBLISHED, CheckpointError
from .outputs import Decoded
from .quantised import quantise_weights
from .sampling_settings import PRESETS, Sampling
from .scales import PATCH_SIZES_256, PATCH_SIZES_512, Scales
from .stacks import Stack, stack
from .var import VAR
from .vqvae import VQVAE

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
    "quantise_weights",
    "stack",
]
