"""Log-probs of two triplets with the lengths of their responses, to compute with by hand."""

import torch

from tspin.objectives import Logps

LENGTHS = {"annotated": [2, 10], "synthetic": [5, 19], "proto": [4, 9]}
POLICY = {"annotated": [-3.0, -40.0], "synthetic": [-5.0, -38.0], "proto": [-4.0, -45.0]}


def logps(values, *, grad=False, lengths=LENGTHS):
    made = {
        role: torch.tensor(row, dtype=torch.float64, requires_grad=grad)
        for role, row in values.items()
    }
    counts = {role: torch.tensor(lengths[role]) for role in values}
    return Logps(**made, lengths=counts)
