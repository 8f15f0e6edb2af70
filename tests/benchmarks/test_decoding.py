"""The bound of sampling: what is multiplied, and that it is no more."""

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import decoding
from benchmarks.shapes import Case, ends


def test_products_alone_are_those_of_every_token_once():
    """Layers for a prompt's tokens but its last, and layers and head for each of a response."""
    case = Case("tiny", "generation", "tiny", "alpaca", ("products",), batch=3)
    model, triplets = case.model_shape.model("cpu"), case.triplets(0)
    linear = {
        name: module.weight.numel()
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    }
    head, work = linear.pop("lm_head"), decoding.products_alone(case)
    with FlopCounterMode(display=False) as counted:
        work(triplets)
    read, made = sum(len(x.prompt_ids) - 1 for x in triplets), sum(ends(triplets))
    layers = sum(linear.values())
    assert counted.get_total_flops() == 2 * (layers * (read + made) + head * made)
