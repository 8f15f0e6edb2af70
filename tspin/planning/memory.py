"""Memory of a run, computed: what one process holds in training, sampling and scoring, by part.

One pure function, `memory`: shapes and configuration in, bytes out. The parts of a training step
are those of docs/method.md; what a layer keeps for the backward pass was counted with autograd's
own hooks and is written down term by term in `_layer`, what is alive in a layer of a forward pass
in `_forward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tspin.config.run import Run, ZeroStage, arithmetic_dtype
from tspin.planning import disk
from tspin.planning.disk import BYTES, optimizer_tensors, state_dtype, weights_dtype
from tspin.planning.shapes import Shape

Device = Literal["cpu", "cuda"]
Sharding = Literal["ddp", "fsdp2"]
CHUNK = {"cpu": 2**23, "cuda": 2**27}  # logits at a time: fused.CHUNK, unread here: it needs torch
PROMPT_TOKENS = {"cpu": None, "cuda": 2**14}  # decode.PROMPT_TOKENS, unread here as well
PACKED = 2**16  # products.LEAST_PACKED, unread here as well
BLOCK = 256  # scales of a 4-bit base with one scale of their own
CONTEXT = {"cpu": 0, "cuda": 2**30}  # assumed: CUDA's own, and what its allocator cannot use
PROCESS = 4e9  # assumed: of the host, what Python, torch and CUDA's libraries take beside a card


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. What is there all the time, what comes on top, and when.

    copies       of weights in the dtype of the products, while autocast holds them: all of them by
                 the end of a forward pass; none of shards, which are gathered in that dtype
    activations  kept for the backward pass of the longest micro-batch, and one layer at work
    head         of the last projection: a chunk of logits, and gradients by its weights
    step         of the optimiser's update
    gathered     of sharded weights, those that are whole at a time
    unreduced    gradients of sharded weights that are whole, until processes have summed them
    inferring    weights that are sampled and scored from, whole in every process
    loading      weights as they are read: whole in every process, before they are narrow or cut
                 into shards
    cache        keys and values of sampling
    sampled      on top of them: a pass that reads prompts, or one that draws a token for each row;
                 on a CPU the weights once more, as its products read them
    scored       of the largest batch that is scored: its forward pass and its logits
    """

    weights: float
    gradients: float
    state: float
    copies: float
    activations: float
    head: float
    step: float
    gathered: float
    unreduced: float
    inferring: float
    loading: float
    cache: float
    sampled: float
    scored: float
    context: float

    @property
    def training(self) -> float:
        """Peak of training: of a forward and backward pass, of the update, or of loading."""
        work = self.copies + self.activations + self.head + self.gathered + self.unreduced
        held = self.weights + self.gradients + self.state
        return self.context + max(self.loading, held + max(work, self.step))

    @property
    def sampling(self) -> float:
        return self.context + max(self.loading, self.inferring + self.cache + self.sampled)

    @property
    def scoring(self) -> float:
        return self.context + max(self.loading, self.inferring + self.scored)

    @property
    def peak(self) -> float:
        return max(self.training, self.sampling, self.scoring)


def memory(
    shape: Shape,
    run: Run,
    *,
    device: Device,
    gpus: int = 1,
    sharding: Sharding = "ddp",
    stage: ZeroStage = 3,
) -> Memory:
    """Of one of `gpus` processes, on the packed path, at the longest triplet there can be.

    A process of several under ddp holds the gradient twice (its buckets). Under fsdp2 weights,
    gradients and state are divided, adapters are not, and weights move in the dtype of the
    products. Whole are at stage 3 two layers, the head and a layer's gradient; at 2 all weights; at
    1 all gradients too, which are then summed once a step. What samples and scores is whole in
    every process.
    """
    held, products = dtypes(run, device)
    lora, own = run.model.lora, weights_dtype(run)
    trained = shape.trained(lora)
    base = float(shape.parameters * BYTES[held])
    adapted = float(trained * BYTES[own]) if lora is not None else 0.0
    if run.model.quantize == "8bit":
        base -= shape.linear * (BYTES[held] - 1 - 4 / shape.hidden)
    elif run.model.quantize == "4bit":  # a byte of scale for 64, and for 256 scales another
        base -= shape.linear * (BYTES[held] - 0.5 - 1 / 64 - 4 / 64 / BLOCK)
    gradients = float(trained * BYTES[own])
    state = float(trained * optimizer_tensors(run.optim) * BYTES[state_dtype(run)])
    copied = BYTES[own] != BYTES[products]
    copies = float(BYTES[products] * (shape.linear if lora is None else trained)) if copied else 0.0
    largest = max(a * b for a, b in shape.matrices.values())
    if run.model.quantize is not None:
        copies += largest * BYTES[products]  # unpacked, one at a time
    loading = base + adapted
    inferring = loading - _narrowed(shape, held, products)
    if lora is not None:
        inferring += copies
    gathered = unreduced = 0.0
    shards, moved = gpus > 1 and sharding == "fsdp2", own
    if gpus > 1 and not shards:
        gradients *= 2
    elif shards:
        base /= gpus
        gathered = _gathered(shape, BYTES[held], BYTES[products], stage)
        if lora is None:
            gradients, state, copies, moved = gradients / gpus, state / gpus, 0.0, products
            layer = shape.linear / shape.layers * (BYTES[products] + BYTES[own])
            unreduced = layer + (trained * BYTES[own] if stage == 1 else 0)
    return Memory(
        weights=base + adapted,
        gradients=gradients,
        state=state,
        copies=copies,
        activations=_activations(shape, run, held, products, device),
        head=_head(shape, run, moved if lora is None else None, products, device),
        step=_step(shape, run, own, device, trained / (gpus if shards and lora is None else 1)),
        gathered=gathered,
        unreduced=unreduced,
        inferring=inferring,
        loading=loading,
        cache=_cache(shape, run, products),
        sampled=_sampled(shape, run, held, products, device),
        scored=_scored(shape, run, held, products, device),
        context=CONTEXT[device],
    )


def host(shape: Shape, run: Run, *, device: Device, gpus: int) -> float:
    """Bytes of a machine's own memory, where all `gpus` processes run on it.

    To a card weights are read tensor by tensor, the largest at once in every process; a training
    state passes through the host whole, in one process or in the parts of all. On the CPU a process
    has nothing else; under compute.overlap a second one scores and evaluates beside it.
    """
    if device == "cpu":
        each = memory(shape, run, device=device, gpus=gpus)
        overlaps = run.compute.overlap and run.cannot_overlap(processes=gpus, device=device) is None
        return gpus * each.peak + overlaps * max(each.sampling, each.scoring)
    trained = shape.trained(run.model.lora)
    saved = disk.sizes(run, parameters=trained, train=0, heldout=0)
    own = BYTES[weights_dtype(run)]
    reading = gpus * max(shape.head, *(a * b for a, b in shape.matrices.values())) * own
    return gpus * PROCESS + max(reading, saved.checkpoint, saved.train_state)


def dtypes(run: Run, device: Device) -> tuple[str, str]:
    """How weights that are not adapters are held, and the dtype of the products."""
    products = str(arithmetic_dtype(run.compute, run.optim.precision))
    if products == "auto":
        products = "bfloat16" if device == "cuda" else "float32"
    if run.model.lora is not None or run.optim.precision == "bf16_stochastic":
        return products, products
    return ("float32" if products == "bfloat16" else products), products


def longest(run: Run, count: int | None = None) -> tuple[int, int]:
    """Tokens of the longest micro-batch, its prompts counted once; of its responses.

    count  triplets in it; None: compute.micro_batch
    """
    roles = run.loss_at(1).roles
    samples = sum(role != "annotated" for role in roles)
    response = run.model.max_length - run.max_prompt_length  # of an annotated one, cut there
    responses = ("annotated" in roles) * response + samples * run.decoding.max_new_tokens
    triplet = run.max_prompt_length + responses
    count = run.compute.micro_batch if count is None else count
    if run.compute.max_tokens is not None:
        count = max(1, run.compute.max_tokens // triplet)
    # A short prompt leaves its tokens to the response.
    alone = run.model.max_length - 1 + samples * run.decoding.max_new_tokens
    return count * triplet, count * alone


def _layer(shape: Shape, p: float, r: float, *, frozen: bool) -> float:
    """Bytes a token that a layer keeps. p, r: of a product, of the residual stream"""
    inputs = 2 * p if p == r else 5 * p  # autocast casts for each of five matrices
    normed = 0 if frozen else 2 * r
    hidden = 8 + normed + inputs + p + 2 * p  # norms in float32; queries; attention, twice
    keys = 4 * shape.kv_heads * shape.head_dim * p
    return shape.hidden * hidden + keys + 4 * shape.intermediate * p


def _activations(shape: Shape, run: Run, held: str, products: str, device: Device) -> float:
    tokens, _ = longest(run)
    p, r = BYTES[products], BYTES[held]
    layer = _layer(shape, p, r, frozen=run.model.lora is not None)
    if device == "cpu":  # masks as numbers; CUDA's kernel has none
        layer += p * run.model.max_length / 2
    backward = 3 * shape.intermediate * p + 4 * shape.hidden * 4  # gradients of one layer
    ends = 3 * shape.hidden * 4
    kept = shape.layers * layer
    if run.compute.gradient_checkpointing:
        kept = shape.layers * shape.hidden * r + layer
    return tokens * (kept + backward + ends)


def _head(shape: Shape, run: Run, own: str | None, products: str, device: Device) -> float:
    """own: the dtype of its weights, None where they are not trained"""
    _, responses = longest(run)
    each = responses / run.compute.micro_batch if run.compute.max_tokens is None else responses
    chunk = max(min(CHUNK[device], responses * shape.vocab), each * shape.vocab)
    logits = chunk * (4 + (2 if products == "bfloat16" else 0))
    copy = 0 if own == products or own is None else shape.head * BYTES[products]
    gradient = 0 if own is None else shape.head * 4
    return logits + copy + gradient + 2 * responses * shape.hidden * 4


def _gathered(shape: Shape, held: int, products: int, stage: ZeroStage) -> float:
    """Bytes of weights that are whole at a time. held, products: bytes of a number

    The head always; an embedding does not move in the dtype of the products.
    """
    layers = shape.linear if stage < 3 else 2 * shape.linear / shape.layers
    if shape.tied:
        return layers * products + shape.head * held
    return (layers + shape.head) * products + (shape.head * held if stage < 3 else 0)


def _step(shape: Shape, run: Run, own: str, device: Device, trained: float) -> float:
    """The square root of the state: torch takes all weights together on CUDA, else one by one."""
    largest = max(shape.head, *(a * b for a, b in shape.matrices.values()))
    largest = min(largest, int(trained))
    if run.optim.precision == "bf16_stochastic":
        return 16.0 * largest  # copy, gradient, noise, square root
    return BYTES[own] * (trained if device == "cuda" else 2 * largest)


def _narrowed(shape: Shape, held: str, products: str) -> float:
    """Bytes that inference.narrow saves; a head that is the embedding is copied beside it."""
    if held == products:  # the base of adapters is, too
        return 0.0
    saved = shape.linear + (0 if shape.tied else shape.head)
    copied = shape.head * BYTES[products] if shape.tied else 0
    return float(saved * (BYTES[held] - BYTES[products]) - copied)


def _forward(shape: Shape, p: float, r: float) -> float:
    """Bytes a token while a layer's MLP is computed and nothing is kept. p, r: as in `_layer`

    Of the residual stream the embedding, the layer's input, its middle and that normed; of the
    intermediate size two factors and their product.
    """
    return 4 * shape.hidden * r + 3 * shape.intermediate * p


def _cache(shape: Shape, run: Run, products: str) -> float:
    columns = run.max_prompt_length + run.decoding.max_new_tokens - 1
    keys = 2 * shape.layers * shape.kv_heads * shape.head_dim * BYTES[products]
    return run.decoding.batch_size * columns * keys


def _sampled(shape: Shape, run: Run, held: str, products: str, device: Device) -> float:
    slots, prompt = run.decoding.batch_size, run.max_prompt_length - 1
    limit = PROMPT_TOKENS[device]
    tokens = slots * prompt if limit is None else min(slots, max(1, limit // prompt)) * prompt
    reading = tokens * _forward(shape, BYTES[products], BYTES[held])
    # A mask and grouped keys at once: repeated for every head. The draw is made in float64.
    columns = prompt + run.decoding.max_new_tokens
    keys = 2 * columns * shape.heads * shape.head_dim * BYTES[products]
    drawing = slots * max(keys, shape.vocab * (4 + 8 + 8))
    return max(reading, drawing) + _packed(shape, run, products, device)


def _packed(shape: Shape, run: Run, products: str, device: Device) -> float:
    if device != "cpu" or run.compute.products == "torch" or products == "float64":
        return 0.0
    sizes = [a * b for a, b in shape.matrices.values()]
    layers = shape.layers * sum(size for size in sizes if size >= PACKED)
    return BYTES[products] * float(layers + (shape.head if shape.head >= PACKED else 0))


def _scored(shape: Shape, run: Run, held: str, products: str, device: Device) -> float:
    count = max(run.compute.score_batch, run.compute.micro_batch)
    tokens, responses = longest(run, count)
    each = responses / count if run.compute.max_tokens is None else responses
    chunk = max(min(CHUNK[device], responses * shape.vocab), each * shape.vocab)
    logits = chunk * (4 + (BYTES[products] if products == "bfloat16" else 0))
    states = (tokens + responses) * shape.hidden * BYTES[held]
    return max(tokens * _forward(shape, BYTES[products], BYTES[held]), states + logits)
