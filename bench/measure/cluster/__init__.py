"""A run over many GPUs."""
