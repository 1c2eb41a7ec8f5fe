"""Models without rounding, so that what is equal on paper is equal to many digits."""

import torch
from torch.overrides import TorchFunctionMode


class NoSingle(TorchFunctionMode):
    """What computes in float32 whatever the weights' type, such as norms, does so in float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            return args[0].double()
        args = [torch.float64 if value is torch.float32 else value for value in args]
        named = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return function(*args, **named)
