"""Plans searched for: what can be saved, what that would cost elsewhere, which keeps the most."""
