"""Tiny models made from a config, and tiny tokenizers: no test here needs a network."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertTokenizerFast,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from biaslab.data.presets import PRESETS
from biaslab.data.words import TEMPLATES
from biaslab.models.loading import attention_of

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the program does: the same bits in each process
multiprocessing.set_forkserver_preload(["torch", "pytorch_lightning", "transformers.models.bert.modeling_bert"])
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that a test starts, as in this one:
torch.set_num_threads(1)  # tiny models; two threads would only wait for each other

SHARED = Path(__file__).parents[2] / "shared"  # the golden data lies beside the repository, where it lies at all
# Every test runs on these; the table's other types have one test each, in test_every_type.py.
MASKED = ("bert", "roberta", "mpnet", "distilbert")
CAUSAL = ("gpt2", "llama", "mistral", "qwen2", "gemma2", "gpt_neox")
_SIZES = {
    "default": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "initializer_range": 0.3,
    },
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 4, "initializer_range": 0.3},
    "gpt2": {"n_embd": 32, "n_inner": 48, "n_layer": 3, "n_head": 4, "initializer_range": 0.3},
}
_GROUPED = {"num_key_value_heads": 2, "head_dim": 8}


def make_model(model_type: str, vocab_size: int = 100, seed: int = 0) -> PreTrainedModel:
    """A random model of the architecture, three layers of 48 neurons, in evaluation mode."""
    torch.manual_seed(seed)
    sizes = _SIZES.get(model_type, _SIZES["default"])
    extra = _GROUPED if hasattr(CONFIG_MAPPING[model_type](), "num_key_value_heads") else {}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(
        model_type, vocab_size=vocab_size, max_position_embeddings=64, **sizes, **extra, **special
    )
    auto = AutoModelForMaskedLM if model_type in MASKED else AutoModelForCausalLM
    return auto.from_config(config, **attention_of(config)).eval().requires_grad_(False)


@pytest.fixture(params=MASKED + CAUSAL)
def any_model(request: pytest.FixtureRequest) -> PreTrainedModel:
    """A tiny model of each of these architectures."""
    return make_model(request.param)


@pytest.fixture
def bert() -> PreTrainedModel:
    return make_model("bert")


TEMPLATE_WORDS = re.findall(
    r"[a-z]+", " ".join(re.sub(r"{\w+}", " ", t.masked + " " + t.causal).lower() for t in TEMPLATES)
)
WORDS = re.findall(
    r"\w+",
    """the of is a an person man woman people who are very that this in he she his her was and not gender age
    female male black white asian old young rude kind mean worse worst better best doctor driver poor rich gay
    straight my your friend works as at home boy girl loves hates cooking sports schools in terms city nice
    terrible water""",
)
WORDS += TEMPLATE_WORDS


def wordpiece_tokenizer(pieces: bool = True) -> PreTrainedTokenizerBase:
    """An uncased WordPiece tokenizer that knows WORDS, single letters and their continuations; or WORDS alone."""
    letters = "abcdefghijklmnopqrstuvwxyz.,!?'-" if pieces else ".,!?'-"
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *dict.fromkeys(WORDS),
        *letters,
        *("##" + c for c in letters),
    ]
    tokens += ["##ing", "##er", "##ly", "##ness"]
    return BertTokenizerFast(vocab={token: index for index, token in enumerate(dict.fromkeys(tokens))})


def bpe_tokenizer(
    masked: bool = True, words: Sequence[str] = tuple(WORDS), vocab_size: int = 1200
) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer, RoBERTa's way if masked, GPT-2's way if not; words have a leading space."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if masked else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in words] * 3, trainer)
    if not masked:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
        )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    ids = {token: tokenizer.token_to_id(token) for token in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True),
    )


def tokenizer_with(front: Sequence[str], appended: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """GPT-2's way, but with some special tokens in front, and some at the end."""
    tokenizer = bpe_tokenizer(masked=False)
    special = [*front, *appended]
    tokenizer.add_special_tokens({"additional_special_tokens": [token for token in special if "end" not in token]})
    if special:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=[*front, "$A", *appended],
            pair=[*front, "$A", "$B", *appended],
            special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in dict.fromkeys(special)],
        )
    return tokenizer


@pytest.fixture(params=["wordpiece", "bpe"])
def masked_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return wordpiece_tokenizer() if request.param == "wordpiece" else bpe_tokenizer()


def run_two_processes(function: Callable[[int, int, str], None], folder: Path) -> None:
    """Call ``function(rank, port, folder)`` in two processes; the port is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, str(folder))
    torch.multiprocessing.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def golden(*parts: str) -> Path:
    """A golden file's path; skips the test where the golden data is not beside the repository."""
    path = SHARED.joinpath("golden", *parts)
    if not path.exists():
        pytest.skip(f"the golden data is not at {path.parent}")
    return path


NAMES = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person", "water", "city")


def stereoset(path: Path, clusters: int = 12) -> str:
    def cluster(number: int) -> dict:
        words = ("rude", "kind", "water") if number % 2 else ("mean", "nice", "cooking")
        labels = ("stereotype", "anti-stereotype", "unrelated")
        target, domain = (("doctor", "profession"), ("girl", "gender"), ("asian", "race"))[number % 3]
        context = f"the {target} {'is' if number % 4 < 2 else 'was'} BLANK."
        sentences = [
            {"sentence": context.replace("BLANK", word), "id": f"s{number}{word}", "gold_label": label}
            for word, label in zip(words, labels, strict=True)
        ]
        return {"id": f"c{number}", "target": target, "bias_type": domain, "context": context, "sentences": sentences}

    path.write_text(json.dumps({"data": {"intrasentence": [cluster(number) for number in range(clusters)]}}))
    return str(path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a tiny StereoSet and some text."""
    folder = tmp_path_factory.mktemp("lab")
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    stereoset(folder / "stereoset.json")
    lines = [f"the {a} loves the {b} and hates the {c} ." for a in NAMES for b in NAMES for c in NAMES]
    (folder / "text.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="session")
def nursery() -> Iterator[Any]:
    """Forks processes of the program: see :mod:`nursery`."""
    from nursery import Nursery

    nursery = Nursery()
    yield nursery
    nursery.process.stdin.close()
    assert nursery.process.wait(timeout=60) == 0


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tiny_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that holds tiny data sets under the names of StereoSet, BOLD and BUG."""
    cache = tmp_path / "cache"
    for name in ("stereoset", "bold", "bug"):
        (cache / name).mkdir(parents=True)
    for split in ("dev", "test"):
        stereoset(cache / "stereoset" / f"{split}.json", clusters=24)
    sentences = [f"the {a} loves the {b} and hates the {c} ." for a in NAMES for b in NAMES for c in NAMES]
    (cache / "bold" / "people.json").write_text(json.dumps({"people": {"all": sentences}}))
    (cache / "bug" / "full_BUG.csv").write_text("\n".join(["sentence_text", *(f"{s[:-1]}too ." for s in sentences)]))
    monkeypatch.setenv("BIASLAB_CACHE", str(cache))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's pictures, which tests of their own look at, are not drawn: they take longer than a tiny model."""
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_figure", lambda *_: None)


@pytest.fixture
def few_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small preset made smaller still, for commands that have no options for that."""
    few = {"dimensions": ["gender", "age"], "kinds": ["negative"], "modifiers": 1}
    monkeypatch.setitem(PRESETS, "small", PRESETS["small"]._replace(data=PRESETS["small"].data | few))


def main(arguments: list[str]) -> None:
    """Run the program with these arguments, in this process."""
    from biaslab import __main__ as program

    before, sys.argv = sys.argv, ["biaslab", *arguments]
    try:
        program.main()
    finally:
        sys.argv = before


@pytest.fixture
def asset() -> Callable[[str], Path]:
    """Fetch an asset by name; skip the test, with the reason, where it can't be had."""
    from biaslab.errors import InputError
    from biaslab.models import assets

    def fetch(name: str) -> Path:
        try:
            return assets.fetch(name)
        except InputError as error:
            pytest.skip(str(error))

    return fetch
