"""The common preparation of evaluation and training before processes join."""

import importlib


def before_joining() -> None:
    """Prepare the process group, so that `destroy_process_group` ends its threads. Call this before the group is made.

    The default arguments of `torch.distributed.nn.functional` are the group that exists when the module is first
    imported, and much of PyTorch imports it late. Such a group outlives its end. A thread of gloo that releases a
    tensor while Python shuts down then aborts the process (as in https://github.com/pytorch/pytorch/pull/179291).
    """
    importlib.import_module("torch.distributed.nn.functional")
