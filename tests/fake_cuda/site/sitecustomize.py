"""Turns cuDNN off, which asks more of a GPU than the fake CUDA knows.  Python imports this as it
starts; torch is left alone until somebody imports it."""

import importlib.abc
import importlib.util
import sys


class WithoutCudnn(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.backends.cudnn.enabled = False
            module.backends.cuda.enable_cudnn_sdp(False)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, WithoutCudnn())
