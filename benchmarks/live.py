"""What operations on tensors do, watched: bytes that are alive, operations, and who attends.

For tensors without memory (FakeTensorMode): how much a pass of a large model would take, and which
kernels it would call.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

ATTENTION = {  # operation -> the name that attention.kernel has for it
    "torch_attn::_varlen_attn": "varlen_attn",
    "aten::_scaled_dot_product_flash_attention_for_cpu": "sdpa",
    "aten::_scaled_dot_product_flash_attention": "sdpa",
    "aten::_scaled_dot_product_efficient_attention": "sdpa",
    "aten::_scaled_dot_product_cudnn_attention": "sdpa",
    "aten::_scaled_dot_product_fused_attention_overrideable": "sdpa",
}


class Live(TorchDispatchMode):
    """Counts, in the block, the storages that operations make until they are freed.

    now, peak   bytes alive, and the most there were
    operations  dispatched so far
    attention   calls by kernel and by dtypes of queries, keys and values, each said once where
                they are the same: "varlen_attn bfloat16"
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        self.attention: Counter[str] = Counter()
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        name = operation.name().split(".")[0]
        if name in ATTENTION:
            dtypes = dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in args[:3])
            self.attention[" ".join([ATTENTION[name], *dtypes])] += 1
        results = operation(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, Tensor):
                self.add(result)
        return results

    def add(self, tensor: Tensor) -> None:
        """Counts a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed(_: object) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, freed)

    def operations_of(self, layer: nn.Module) -> list[int]:
        """How many operations each of the layer's forward passes from now on dispatches."""
        counts: list[int] = []
        starts: list[int] = []

        def before(*_: object) -> None:
            starts.append(self.operations)

        def after(*_: object) -> None:
            counts.append(self.operations - starts.pop())

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)
        return counts
