"""`python -m tspin chat`: how it loads. What it prints: tests/export/test_checkpoint.py."""

import torch
from support.tiny import compose

from tspin.cli import chat
from tspin.data.templates import Rendering
from tspin.micro import folder


def test_policies_take_the_memory_of_sampling_and_no_kernels_of_training():
    """Linear layers in the dtype of the arithmetic, as the run's own sampling has them."""
    cfg = compose("compute.dtype=bfloat16", "compute.kernels=liger", "compute.compile=true")
    policy = chat.load(folder("warm"), cfg, Rendering.of(cfg))
    linear = [m for m in policy.model.modules() if type(m) is torch.nn.Linear]
    head = policy.model.get_output_embeddings()
    assert {m.weight.dtype for m in linear if m is not head} == {torch.bfloat16}
    assert policy.compiled is None and not policy.liger
