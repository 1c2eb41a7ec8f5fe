"""A small world to run the documentation in: tiny models and data sets under the names that the pages use.

The cache of assets holds files of the same forms with few records, the hub's cache tiny models under the ids that the
pages name. Nothing of biaslab is replaced but which adapter belongs to the tiny encoder, and how many words there are.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
from pathlib import Path

import torch
from conftest import (
    NAMES,
    bpe_tokenizer,
    stereoset,
)
from pronoun_files import winobias, winogender
from reference import bbq
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertForPreTraining,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from biaslab.data.redditbias import DIMENSIONS
from biaslab.models.table import ARCHITECTURES

DATA = Path(__file__).parents[1] / "biaslab" / "data"
SENTENCES = [f"The {a} loves the {b} and hates the {c}." for a in NAMES for b in NAMES for c in NAMES if a != b]
# Families of models by what their names contain, the first that fits; any other id is a BERT.
FAMILIES = {
    "roberta": r"roberta|fairberta", "distilbert": "distilbert", "gpt2": "gpt2", "qwen2": "qwen", "gemma2": "gemma",
    "mistral": "mistral", "llama": "llama|smollm", "gpt_neox": "pythia",
}  # fmt: skip


def known_words() -> list[str]:
    """Return the words of biaslab's own prompts and sentences."""
    files = ("words", "knowledge", "minimal_pairs", "knowledge_to_spare")
    texts = [(DATA / f"{name}.py").read_text(encoding="utf-8") for name in files]
    return list(dict.fromkeys(re.findall(r"[a-z]+", " ".join([*texts, *NAMES, *SENTENCES]).lower())))


def wordpiece() -> PreTrainedTokenizerBase:
    """Return an uncased tokenizer that knows these words."""
    known = known_words()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!?'-", *letters, *(f"##{c}" for c in letters), *known]
    return BertTokenizerFast(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))})


def model_of(kind: str, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """Return a random model of three layers of 48 neurons."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    if kind == "distilbert":
        sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4}
    elif kind == "gpt2":
        sizes = {"n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4}
    elif hasattr(CONFIG_MAPPING[kind](), "num_key_value_heads"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.3, bos_token_id=1,
        eos_token_id=2, pad_token_id=0, **sizes,
    )  # fmt: skip
    if kind == "bert":  # with the next-sentence head that the real one has
        return BertForPreTraining(config).eval()
    auto = AutoModelForMaskedLM if ARCHITECTURES[kind].masked else AutoModelForCausalLM
    return auto.from_config(config).eval()


def save_model(folder: Path, kind: str, seed: int) -> None:
    """Write a tiny model and its tokenizer."""
    masked = ARCHITECTURES[kind].masked
    tokenizer = wordpiece() if kind in ("bert", "distilbert") else bpe_tokenizer(masked, known_words(), 4000)
    model_of(kind, tokenizer, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_hub(cache: Path, model_id: str, seed: int) -> None:
    """Put a tiny model into the hub's cache, as if it had been downloaded."""
    kind = next((kind for kind, names in FAMILIES.items() if re.search(names, model_id.lower())), "bert")
    place = cache / f"models--{model_id.replace('/', '--')}"
    save_model(place / "snapshots" / "tiny", kind, seed)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("tiny")


def save_assets(cache: Path) -> Path:
    """Fill the cache of assets; return the adapter that makes minilm-mlm of the tiny encoder."""
    cache.mkdir(parents=True, exist_ok=True)
    for save in (save_stereoset, save_corpora, save_pairs, save_benchmarks):
        save(cache)
    save_model(cache / "smollm2-135m", "llama", seed=5)
    return save_minilm(cache)


def save_minilm(cache: Path) -> Path:
    """Write the tiny encoder and its adapter."""
    from biaslab.models import minilm
    from biaslab.store import checksum

    folder, tokenizer = cache / minilm.ENCODER, wordpiece()
    model_of("bert", tokenizer, seed=6).bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sums = {path.name: [checksum(path)] for path in folder.iterdir()}
    (cache / f".{minilm.ENCODER}.sha256.json").write_text(json.dumps(sums))
    model = minilm.untrained(rank=4)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    minilm.save(model, cache / "adapter.safetensors")
    return cache / "adapter.safetensors"


def save_stereoset(cache: Path) -> None:
    """Write both splits, with both tasks."""
    (cache / "stereoset").mkdir()
    for split in ("dev", "test"):
        path = Path(stereoset(cache / "stereoset" / f"{split}.json", clusters=24))
        content = json.loads(path.read_text())
        clusters = content["data"]["intrasentence"]
        content["data"]["intersentence"] = [
            {**cluster, "context": f"The {cluster['target']} is at home.", "target": cluster["target"]}
            for cluster in clusters[:9]
        ]
        path.write_text(json.dumps(content))


def save_corpora(cache: Path) -> None:
    """Write few sentences of BOLD, BUG and PANDA."""
    for name in ("bold", "bug", "panda"):
        (cache / name).mkdir()
    some = SENTENCES[::3]
    (cache / "bold" / "people.json").write_text(json.dumps({"people": {"all": some}}))
    rows = ["sentence_text", *(sentence.replace("loves", "was with") for sentence in some)]
    (cache / "bug" / "full_BUG.csv").write_text("\n".join(rows))
    originals = [f"The {a} is a {b} man. The man loves the {a}." for a in NAMES for b in NAMES]
    records = [{"original": text, "rewrite": text.replace("man", "woman")} for text in originals]
    (cache / "panda.jsonl").write_text("\n".join(map(json.dumps, records)))
    with tarfile.open(cache / "panda" / "PANDA-dataset.tgz", "w:gz") as archive:
        archive.add(cache / "panda.jsonl", "dataset/panda.jsonl")


def save_pairs(cache: Path) -> None:
    """Write CrowS-Pairs and RedditBias."""
    columns = ["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"]
    rows = [
        [
            n,
            f"the old woman loves the {name} .",
            f"the young woman loves the {name} .",
            "stereo",
            ("age", "gender")[n % 2],
        ]
        for n, name in enumerate(NAMES)
    ]
    write(cache / "crows-pairs" / "crows_pairs_anonymized.csv", columns, rows)
    texts = [f"the {{}} is {word} at home ." for word in ("rude", "mean", "nice", "kind", "old", "poor")]
    words = {"gender": ("woman", "man"), "race": ("black", "white"), "orientation": ("gay", "straight")}
    for dimension, places in DIMENSIONS.items():
        first, second = words.get(dimension, ("rich", "poor"))
        more, less = ([text.format(word) for text in texts] for word in (first, second))
        name = "reddit_comments_{}_{}_biased_test_reduced.csv".format
        folder = cache / "redditbias"
        write(folder / name(dimension, places[0]), ["id", "comment", "comments_processed"], [["", "", m] for m in more])
        columns = ["initial_demo", "comments", "comments_processed"]
        write(folder / name(dimension, places[1]), columns, [["[]", *both] for both in zip(more, less, strict=True)])


def save_benchmarks(cache: Path) -> None:
    """Write BBQ, WinoBias, Winogender, BEC-Pro and HONEST."""
    bbq.write(cache / "bbq", bbq.records())
    winobias(cache / "winobias")
    winogender(cache / "winogender")
    persons = [
        ("He", "He", "male"),
        ("This man", "man", "male"),
        ("She", "She", "female"),
        ("My wife", "wife", "female"),
    ]
    jobs = [("doctor", "male"), ("driver", "balanced"), ("waiter", "female")]
    columns = ["", "Sentence", "Sent_TM", "Template", "Person", "Gender", "Profession", "Prof_Gender"]
    rows = [
        [0, f"{subject} is a {job}.", "", "<person subject> is a <profession>.", person, gender, job, group]
        for subject, person, gender in persons
        for job, group in jobs
    ]
    for language in ("EN", "DE"):
        write(cache / "bec-pro" / f"BEC-Pro_{language}.tsv", columns, rows, "\t")
    columns = ["template_masked", "raw", "identity", "number", "category", "type"]
    raws = [("[I] works as a [M]", "occupation"), ("[I] likes the [M]", "verb")]
    people = [("the woman", "female"), ("the girl", "female"), ("the man", "male"), ("the boy", "male")]
    rows = [
        [f"{raw.replace('[I]', who)}.", raw, who, "singular", group, kind]
        for who, group in people
        for raw, kind in raws
    ]
    write(cache / "honest" / "binary" / "en_template.tsv", columns, rows, "\t")


def write(path: Path, columns: list[str], rows: list[list[object]], delimiter: str = ",") -> None:
    """Write a table, and the folder that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
