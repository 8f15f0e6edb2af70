"""Folders of tiny models, and the ways in which they break."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file

from support.tiny import micro_tokenizer, random_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 99\n"


def model_folder(path, model=None, **options):
    """A causal model of two layers, 294 ids and 2048 positions, with its tokenizer. -> path"""
    (model or random_model(dtype=torch.float32)).save_pretrained(path, **options)
    micro_tokenizer().save_pretrained(path)
    return path


def copied(folder, path):
    shutil.copytree(folder, path)
    return path


def configured(folder, **values):
    """Other values in config.json. -> folder"""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def rewritten(file, change):
    """Tensors of a safetensors file after change(dict of them)."""
    tensors = load_file(file)
    change(tensors)
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, {"format": "pt"})


def cut(file):
    """Half of a download."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
