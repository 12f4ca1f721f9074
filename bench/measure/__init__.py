"""A case in a process of its own: runner, child, timing, memory, card, cluster."""
