"""What the papers compare with (docs/guide/baselines.md), each registered where it stands.

A new one is one more module, or, with a network of its own, one more package: settings and sizes in
its `__init__`, which does without torch, and the network beside it.
"""
