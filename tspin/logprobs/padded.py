"""From token ids to summed log-probabilities of responses.

Owns the one number everything else is made of: log pi(z | x), the SUM over the response's tokens
(EOS included where the response has one) of token log-probabilities in nats. This is the plain
path: the model's own padded forward, the model's own logits. It knows nothing of losses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def token_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """log softmax(logits)[ids], in float32 at least. -> (..., length)

    logits (..., length, vocab) in any float type; ids (..., length).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = logits.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)


def sequence_logps(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor
) -> Tensor:
    """Sum of `response_logps` over each row, in nats. -> (rows,), float32 at least."""
    return response_logps(model, input_ids, attention_mask, response_mask).sum(1)


def response_logps(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, response_mask: Tensor
) -> Tensor:
    """log pi(token | prefix) of response tokens, in nats, 0 of others. -> (rows, width)

    From the first response token of any row on: `width` are the last columns of `length`.

    input_ids       (rows, length) prompt ids followed by response ids, padded on either side
    attention_mask  (rows, length) True on prompt and response
    response_mask   (rows, length) True on response tokens, EOS included; prompts and padding add
                    nothing, whatever their ids are
    """
    length = input_ids.shape[1]
    # Logits at position i predict the token at i + 1; before the first response of any row
    # nothing is read, so the model need not project it onto the vocabulary.
    first = int(response_mask.any(0).to(torch.int8).argmax())
    assert first > 0, "a response needs at least one prompt token before it"
    position_ids = (attention_mask.long().cumsum(1) - 1).clamp_min(0)
    logits = model(
        input_ids=input_ids,
        attention_mask=attention_mask.long(),
        position_ids=position_ids,
        use_cache=False,
        logits_to_keep=length - first + 1,
    ).logits
    per_token = token_logps(logits[:, :-1], input_ids[:, first:])
    return per_token.masked_fill(~response_mask[:, first:], 0.0)
