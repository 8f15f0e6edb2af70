"""The card of an exported policy: what it says, and that the hub's client reads it."""

import json
import shlex
from datetime import date

import huggingface_hub
from support.tiny import micro_tokenizer, two_id_tokenizer

import tspin
from tspin.data.templates import Rendering
from tspin.data.tokens import Renderer
from tspin.export import checkpoint
from tspin.runs import retention
from tspin.tools.files import read_json


def test_the_card_says_what_the_template_was_given():
    """Arguments, the day, and where its generation prompt is not what the run conditioned on."""
    tokenizer = two_id_tokenizer()
    tokenizer.chat_template = (
        "[gMASK]<sop>{{ strftime_now('%Y') }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% if think %}<think>{% endif %}"
        "{% endif %}"
    )
    how = Rendering("chat", {"think": True}, day=date(2026, 2, 3))
    renderer = Renderer(tokenizer, how)
    use = checkpoint._use(renderer, messages=True)
    assert '`{"think": true}`' in use and "2026-02-03" in use and '`"<think>"`' in use
    arguments = shlex.split(checkpoint._evaluation(renderer, messages=True))
    assert arguments[0] == "--model_args" and arguments[2:] == ["--apply_chat_template"]
    assert json.loads(arguments[1]) == {
        "pretrained": "FOLDER", "add_bos_token": False, "chat_template_args": {"think": True}
    }  # fmt: skip
    plain = Renderer(micro_tokenizer(), "alpaca")
    assert "have the form `alpaca`" in checkpoint._use(plain, messages=False)
    assert checkpoint._evaluation(plain, messages=False) == "--model_args pretrained=FOLDER"


def test_the_card_is_read_back_by_the_hubs_client(run, exported):
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    assert card.data.library_name == "transformers"
    (perplexity,) = card.data.eval_results
    t, metric, value = retention.best([run.iteration(t) for t in run.iterations()])
    assert (perplexity.metric_type, perplexity.metric_value) == (metric, value)
    assert huggingface_hub.ModelCard(card.content).data.to_dict() == card.data.to_dict()
    assert read_json(run.data)["digest"] in card.text and f"tspin {tspin.__version__}," in card.text
    assert str(run.path.parent) not in card.content  # nothing of this machine
