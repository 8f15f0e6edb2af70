"""A mirror of the hub with a handful of made-up rows: the data sets of all ten benchmarks.

Paths, configurations, splits and columns are those of the hub; the texts are ours. A file that a
README.md maps to a configuration and a split is found by `datasets` as it is on the hub.
"""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from support.tiny import micro_tokenizer, random_model

MATH = ("algebra", "counting_and_probability", "geometry", "intermediate_algebra")
MATH += ("number_theory", "prealgebra", "precalculus")
BBH = {  # subtask -> answers
    "boolean_expressions": ["False", "True"],
    "causal_judgement": ["No", "Yes"],
    "formal_fallacies": ["invalid", "valid"],
    "navigate": ["No", "Yes"],
    "object_counting": ["2", "7"],
    "sports_understanding": ["no", "yes"],
    "web_of_lies": ["No", "Yes"],
} | {
    name: ["(A)", "(B)"]
    for name in [
        "date_understanding",
        "disambiguation_qa",
        "geometric_shapes",
        "hyperbaton",
        "logical_deduction_five_objects",
        "logical_deduction_seven_objects",
        "logical_deduction_three_objects",
        "movie_recommendation",
        "penguins_in_a_table",
        "reasoning_about_colored_objects",
        "ruin_names",
        "salient_translation_error_detection",
        "snarks",
        "temporal_sequences",
        "tracking_shuffled_objects_five_objects",
        "tracking_shuffled_objects_seven_objects",
        "tracking_shuffled_objects_three_objects",
    ]
}
ANIMALS = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx"]


def write(root: Path, *, mmlu=("anatomy", "virology")) -> Path:
    """All data sets under `root`. mmlu: its subjects"""
    gsm8k = {"main": {"train": [sum_of(i) for i in range(8)], "test": [sum_of(9), sum_of(10)]}}
    _dataset(root / "openai/gsm8k", gsm8k)
    walks = [walk(i) for i in range(12)]
    _dataset(root / "Rowan/hellaswag", {"default": {"train": walks, "validation": walks[:3]}})
    who = [who_fits(i) for i in range(8)]
    _dataset(root / "allenai/winogrande", {"winogrande_xl": {"train": who, "validation": who[:3]}})
    _dataset(
        root / "cais/mmlu",
        {
            subject: {
                "dev": [legs(i) | {"subject": subject} for i in range(5)],
                "test": [legs(i) | {"subject": subject} for i in range(5, 8)],
            }
            for subject in mmlu
        },
    )
    pro = [many_legs(i) for i in range(8)]
    _dataset(root / "TIGER-Lab/MMLU-Pro", {"default": {"validation": pro[:5], "test": pro[5:]}})
    _dataset(root / "SaylorTwift/bbh", {name: {"test": bbh(a)} for name, a in BBH.items()})
    orders = [order(i) for i in range(3)]
    ifeval = {"default": {"train": orders}}
    _dataset(root / "google/IFEval", ifeval, suffix="jsonl")
    _dataset(root / "wis-k/instruction-following-eval", ifeval, suffix="jsonl")
    stories = [story(i) for i in range(2)]
    musr = {name: stories for name in ("murder_mysteries", "object_placements", "team_allocation")}
    _dataset(root / "TAUR-Lab/MuSR", {"default": musr}, suffix="csv")
    gpqa = [colours(i) for i in range(6)]
    _dataset(
        root / "Idavidrein/gpqa",
        {f"gpqa_{part}": {"train": gpqa} for part in ("diamond", "extended", "main")},
        suffix="csv",
    )
    sums = [product(i) for i in range(3)]
    _dataset(
        root / "DigitalLearningGmbH/MATH-lighteval",
        {name: {"train": sums[:1], "test": sums} for name in MATH},
    )
    return root


def checkpoint(folder: Path) -> Path:
    """A random policy with room for prompts of several thousand characters, each a token of it.

    Its EOS is likely enough that answers end after a few tokens, not after the task's thousand.
    """
    model, tokenizer = random_model(dtype=torch.float32), micro_tokenizer()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.eos_token_id] *= 3  # tied: its logit too
    model.config.max_position_embeddings = 8192
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def punkt(folder: Path) -> Path:
    """A punkt_tab that knows one abbreviation: for NLTK_DATA, where the real one is not at hand."""
    english = folder / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    (english / "abbrev_types.txt").write_text("dr\n")
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (english / name).write_text("")
    return folder


# --- rows, by data set ---------------------------------------------------------------------------


def sum_of(i):
    return {
        "question": f"Ann has {i} pens and buys {i + 1}. How many has she?",
        "answer": f"{i} + {i + 1} = <<{i}+{i + 1}={2 * i + 1}>>{2 * i + 1}\n#### {2 * i + 1}",
    }


def walk(i):
    animal = ANIMALS[i]
    return {
        "ind": i,
        "activity_label": "Walking",
        "ctx_a": f"The {animal} walks to the door.",
        "ctx_b": "it",
        "ctx": f"The {animal} walks to the door. it",
        "endings": ["flies.", "waits there.", "is a door.", f"eats {i} roofs."],
        "source_id": f"made~{i}",
        "split": "train",
        "split_type": "indomain",
        "label": str(i % 4),
    }


def who_fits(i):
    return {
        "sentence": f"The {ANIMALS[i]} is not in the box since the _ is too big.",
        "option1": ANIMALS[i],
        "option2": "box",
        "answer": str(1 + i % 2),
    }


def legs(i):
    question = f"How many legs have {i} birds?"
    choices = [str(2 * i + d) for d in (1, 0, 2, 3)]
    return {"question": question, "choices": choices, "answer": i % 4}


def many_legs(i):
    return {
        "question_id": i,
        "question": f"How many legs have {i} spiders?",
        "options": [str(8 * i + d) for d in range(4 + i % 3)],
        "answer": "AB"[i % 2],
        "answer_index": i % 2,
        "cot_content": "A: one has 8.",
        "category": "biology",
        "src": "made",
    }


def bbh(answers):
    return [{"input": f"Case {i}: which?", "target": answer} for i, answer in enumerate(answers)]


def order(i):
    kwargs = {"num_words": None, "relation": None, "keywords": None, "num_sentences": None}
    instructions = {
        "punctuation:no_comma": {},
        "length_constraints:number_words": {"num_words": 5, "relation": "at least"},
        "length_constraints:number_sentences": {"num_sentences": 2, "relation": "less than"},
        "keywords:existence": {"keywords": [ANIMALS[i]]},
    }
    chosen = list(instructions)[i : i + 2]
    return {
        "key": 100 + i,
        "prompt": f"Write about the {ANIMALS[i]}.",
        "instruction_id_list": chosen,
        "kwargs": [kwargs | instructions[name] for name in chosen],
    }


def story(i):
    names = [ANIMALS[i], ANIMALS[i + 1]]
    return {
        "narrative": f"The {names[0]} came at noon. The {names[1]} was away.",
        "question": "Who took the key?",
        "choices": str(names),
        "answer_index": i % 2,
        "answer_choice": names[i % 2],
    }


def colours(i):
    return {
        "Question": f"What colour has the {ANIMALS[i]}?",
        "Correct Answer": f"brown {i}",
        "Incorrect Answer 1": f"red {i}",
        "Incorrect Answer 2": f"blue {i}",
        "Incorrect Answer 3": f"green {i}",
    }


def product(i):
    return {
        "problem": f"What is ${i + 2} \\cdot 3$?",
        "level": "Level 5" if i else "Level 2",
        "solution": f"It is $\\boxed{{{3 * i + 6}}}$.",
        "type": "Algebra",
    }


# --- files ---------------------------------------------------------------------------------------


def _dataset(folder, configs, *, suffix="parquet"):
    """configs: name -> split -> rows, one file each, and the README.md that says so."""
    listed = []
    for config, splits in configs.items():
        files = []
        for split, rows in splits.items():
            path = Path(config) / f"{split}-00000-of-00001.{suffix}"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            WRITERS[suffix](folder / path, rows)
            files.append({"split": split, "path": str(path)})
        listed.append({"config_name": config, "data_files": files})
    header = yaml.safe_dump({"configs": listed})
    (folder / "README.md").write_text(f"---\n{header}---\n")


def _csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
