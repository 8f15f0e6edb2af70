"""Calls that wait for a device, counted where there is none.

On the CPU nothing waits, but the calls are the same ones: each would let CUDA run dry.
"""

from collections import Counter

from torch.overrides import TorchFunctionMode

# of a tensor: values become Python's, or a shape depends on them
READS = {"item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "__index__"} | {
    *("nonzero", "unique", "masked_select", "equal", "allclose"),
}


class Waits(TorchFunctionMode):
    """Counts, by name, the calls in its block that wait for all work given to the device.

    Copies to a device count too, where they are not non_blocking: torch.tensor(..., device=...) and
    new_tensor.
    """

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        copies = name == "new_tensor" or (name == "tensor" and kwargs.get("device") is not None)
        if name in READS or copies:
            self.calls[name] += 1
        return func(*args, **kwargs)
