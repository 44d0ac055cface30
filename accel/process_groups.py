"""What evaluation and training do alike before processes join."""

import importlib


def before_joining() -> None:
    """To be called before the process group is made, so that `destroy_process_group` ends its threads.

    The default arguments of `torch.distributed.nn.functional` are the group that there is when it is first imported,
    and much of PyTorch imports it late. Such a group outlives its end, and a thread of gloo that lets go of a tensor
    while Python shuts down aborts the process (as in https://github.com/pytorch/pytorch/pull/179291).
    """
    importlib.import_module("torch.distributed.nn.functional")
