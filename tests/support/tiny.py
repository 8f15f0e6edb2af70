"""Small things tests build on: random models of any dtype, tokenizers with awkward habits, runs."""

from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest.mock import patch

import hydra
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tspin.config.run import Run
from tspin.data.tokens import Renderer
from tspin.data.triplets import Triplet
from tspin.micro import folder
from tspin.objectives import SFT, SPIN, TSPIN, TSPINRef, WithoutHA
from tspin.policy.policy import Policy, checkpoint
from tspin.runs.artifacts import RunDir
from tspin.selfplay import algorithm
from tspin.stages import train

LOSSES = {
    "sft": SFT(),
    "spin": SPIN(lam=0.1),
    "tspin": TSPIN(alpha=0.3, beta=0.1),
    "tspin_ref": TSPINRef(alpha=0.3, beta=0.1),
    "wo_ha": WithoutHA(alpha=0.3),
}
CONF = Path(__file__).resolve().parents[2] / "conf"
PROMPTS = {f"p{i}": list(range(3, 4 + i % 7)) for i in range(23)}
CHAT = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def micro_tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(folder("base"))


def random_model(*, vocab_size=294, seed=0, dtype=torch.float64, scale=1.0, tied=True, layers=2):
    """A small Llama whose logits are far from uniform."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3 * scale,
            tie_word_embeddings=tied,
        )
    )
    return model.to(dtype).eval()


def checkpointed(model):
    """Turns gradient checkpointing on, and the mode in which it acts."""
    checkpoint(model)
    model.train()


def random_policy(*, attention="auto", **options):
    renderer = Renderer(micro_tokenizer(), "alpaca_space")
    return Policy(random_model(**options), renderer, torch.device("cpu"), None, attention)


def chat_tokenizer():
    """<s> opens a turn and <|end|> closes it; EOS is another token, as in Llama 3."""
    tokenizer = micro_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|start|>", "<|end|>"]})
    tokenizer.chat_template = CHAT.replace("<s>", "<|start|>").replace("</s>", "<|end|>")
    return tokenizer


def sentencepiece_like():
    """A tokenizer that, like Llama's, puts a word-start mark before the first word of a text."""
    words = ["\u2581Dear", "Dear", "\u2581", "\u2581###", "###", "\u2581Response:", "Response:"]
    pieces = ["<unk>", "<s>", "</s>", *words, *(f"<0x{i:02X}>" for i in range(256))]
    vocabulary = [(piece, -float(len(pieces) - i) / 100) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Metaspace(), decoders.ByteFallback()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def two_id_tokenizer():
    """As GLM: two special tokens before a text."""
    tokenizer = micro_tokenizer()
    words = ["[gMASK]", "<sop>"]
    tokenizer.add_special_tokens({"additional_special_tokens": words})
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[gMASK] <sop> $A",
        special_tokens=[(word, tokenizer.convert_tokens_to_ids(word)) for word in words],
    )
    return tokenizer


@contextmanager
def interrupted(after):
    """A training in the block is stopped by Ctrl-C after so many steps."""
    step, steps = train.gradient_step, []

    def stopped(*args, **kwargs):
        if len(steps) == after:
            raise KeyboardInterrupt
        steps.append(kwargs["where"])
        return step(*args, **kwargs)

    with patch.object(train, "gradient_step", stopped), pytest.raises(KeyboardInterrupt):
        yield


def triplet(i, prompt, annotated, synthetic=None, proto=None, *, source=1, split="train"):
    """A Triplet from lists of ids; roles that are None are left out."""
    by_role = {"annotated": annotated, "synthetic": synthetic, "proto": proto}
    responses = {role: ids for role, ids in by_role.items() if ids is not None}
    return Triplet(str(i), split, source, prompt, responses)


def random_triplets(num, *, seed=0, low=1, high=9, vocab_size=294):
    """Triplets with prompts and responses of random lengths and ids."""
    generator = torch.Generator().manual_seed(seed)

    def ids():
        length = int(torch.randint(low, high, (), generator=generator))
        return torch.randint(3, vocab_size, (length,), generator=generator).tolist()

    return [triplet(i, ids(), ids(), ids(), ids()) for i in range(num)]


SMALL = ["data.size=24", "data.heldout=16", "selfplay.iterations=2", "optim.batch_size=8",
         "optim.epochs=1", "decoding.batch_size=16", "coef.lambda=0.1"]  # fmt: skip


def play(root, loss, *overrides, name=None):
    """A small run of the embedded model in `root`. -> its folder, the rows of its table"""
    run = compose(f"loss={loss}", f"name={name or loss}", f"runs_dir={root}", *SMALL, *overrides)
    rows = algorithm.run(run, command=["test"])
    return RunDir(run.folder), rows


@cache
def compose(*overrides: str) -> Run:
    """A Run as the command line makes it, named "test" and tracked nowhere; one object for equal
    words, as it is frozen."""
    from tspin.cli import compose as cli

    with hydra.initialize_config_dir(str(CONF), version_base=cli.VERSION):
        return cli.compose(["name=test", "track=none", "track.report=false", *overrides])
