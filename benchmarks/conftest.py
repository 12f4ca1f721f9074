"""Says in pytest-benchmark's JSON what machine it was, so that `compare` refuses another."""

from __future__ import annotations

import torch

from bench.measure import devices, machine


def pytest_benchmark_update_machine_info(config, machine_info):
    """Say in the machine's block what decides a decode's speed."""
    machine_info["device"] = devices.default_device()
    machine_info["hardware"] = machine.environment()["hardware"]
    machine_info["torch"] = torch.__version__
    machine_info["torch_threads"] = torch.get_num_threads()
