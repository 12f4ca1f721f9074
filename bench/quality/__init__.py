"""Images: sampled, read, evaluated, compared."""
