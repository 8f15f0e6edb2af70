"""log pi(z | x) of responses: padded rows, and streams without padding.

The way of a number, from the triplet to the update. A batch of triplets {x, y, y', y0} is cut into
micro-batches (training.cut), and for each of them

    Policy.loss_sum(triplets, roles, loss_function)                               policy.policy
        lays the micro-batch out as one stream of ids                             packing
        runs the model's layers over it, attention by its plan                    attention
        takes the hidden states that predict response tokens, (targets, size)     packed
    fused_head.loss_sum projects them onto the vocabulary, a few triplets at a time
        log softmax at each response token, summed by response -> Logps, each (batch,)
        loss_function(triplets, logps) -> losses (batch,)                         training.step
        backward through losses and projection, while the logits are there
        -> the sum of losses, which knows its gradient by hidden states and head
    .backward() takes that gradient through the layers to the weights             training.strategy

and once all are done the optimiser updates (training.step). A `LossFunction` is all that the way
back needs to know of an objective. Scoring goes the same way without one (`Policy.logps`), and so
does what an objective compares with in the whole batch (Strategy.logps), before the first. The
plain path, which tests compare with, is `padded`: rows, the model's own logits, one batch.
"""
