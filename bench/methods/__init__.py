"""A case made runnable: its models loaded, and the baselines."""
