"""HONEST: prompts about persons of two groups, batches for their completions, and lexicons of hurtful words."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.module import EvaluationData, problem
from biaslab.data.queries import Query, whole_examples
from biaslab.data.records import table_records
from biaslab.errors import InputError, read_text, reading, require_one_of
from biaslab.models import assets
from biaslab.models.positions import require_room, say_once, say_unknown
from biaslab.models.tokens import SLOT, Bos, encode_slot, front_tokens, is_masked, require_bos

Part = Literal["binary", "queer_nonqueer"]
Language = Literal["en", "es", "fr", "it", "pt", "ro"]
_GROUPS = {"binary": ("female", "male"), "queer_nonqueer": ("queer", "nonqueer")}
_MARK = "[M]"
_COLUMNS = ("template_masked", "raw", "identity", "number", "category", "type")


class Prompt(NamedTuple):
    """A sentence about a person, with a slot for what they are or do."""

    text: str  # with ``{slot}``
    raw: str  # the text without the identity
    group: str  # one of the two groups of a part
    number: str  # "singular" or "plural"
    kind: str  # kind of completion, such as "occupation"
    line: int  # in the file


class Template(NamedTuple):
    """Prompts that differ only in the group; one side is empty if the file lacks it."""

    number: str
    kind: str
    sides: tuple[tuple[Prompt, ...], tuple[Prompt, ...]]


def read_prompts(path: str | Path | None = None, part: Part = "binary", language: Language = "en") -> list[Prompt]:
    """Return the prompts of a table in HONEST's format, in order; without a path, those of the asset.

    Repeated spaces are collapsed.

    Raises:
        InputError: if the file cannot be read or is not HONEST (the message gives the line and the problem), or the
            asset does not have this part in this language.
    """
    if path is None and part != "binary" and language != "en":
        raise InputError(
            f"`language` is expected to be en for the part {part} but got {language!r}. Leave it out, or choose the "
            "part binary."
        )
    source = assets.fetch("honest") / part / f"{language}_template.tsv" if path is None else Path(path)
    with reading("path", "a HONEST file (TSV)", source):
        prompts = [_prompt(source, line, record) for line, record in table_records(read_text(source), _COLUMNS)]
    groups = {prompt.group for prompt in prompts}
    if not any(groups == {*both} for both in _GROUPS.values()):
        raise InputError(
            f"`path` is expected to contain prompts about two groups (female and male, or queer and nonqueer), but "
            f"{source} has {', '.join(sorted(groups)) or 'none'}. Give another file."
        )
    return prompts


def _prompt(source: Path, line: int, record: Mapping[str, Any]) -> Prompt:
    wrong = problem(record, _COLUMNS, {"number": ("singular", "plural")})
    text, group = " ".join(str(record.get("template_masked")).split()), _group(str(record.get("category")))
    if not wrong and group is None:
        wrong = f"has the category {record['category']!r} instead of female, male, queer… or nonqueer…"
    elif not wrong and (text.count(_MARK) != 1 or text.startswith(_MARK)):
        wrong = f"does not have words followed by one {_MARK} under 'template_masked'"
    if wrong or group is None:
        raise InputError(
            f"`path` is expected to be a HONEST file, but line {line} of {source} {wrong}. Fix the file, or give "
            "another one."
        )
    raw = " ".join(record["raw"].split())
    return Prompt(text.replace(_MARK, SLOT), raw, group, record["number"], record["type"], line)


def _group(category: str) -> str | None:
    """Return the group of a category, if known: the queer part has subcategories, such as "queer_gender"."""
    return next((name for both in _GROUPS.values() for name in both if category.split("_")[0] == name), None)


def groups_of(prompts: Iterable[Prompt]) -> tuple[str, str]:
    """Return the two groups of the prompts, in the order of a template's sides."""
    found = {prompt.group for prompt in prompts}
    return next(both for both in _GROUPS.values() if found <= {*both})


def templates_of(prompts: Sequence[Prompt]) -> list[Template]:
    """Return the prompts by template, templates of both groups first.

    A template is the text without the identity. Where the text is inflected for gender, as in Italian, templates that
    only one group has are paired in order, if both groups have equally many of that number and kind.
    """
    groups, found = groups_of(prompts), []
    for number, kind in dict.fromkeys((prompt.number, prompt.kind) for prompt in prompts):
        own: list[dict[str, list[Prompt]]] = [{}, {}]
        for prompt in prompts:
            if (prompt.number, prompt.kind) == (number, kind):
                own[groups.index(prompt.group)].setdefault(prompt.raw, []).append(prompt)
        pairs: list[tuple[str | None, str | None]] = [(raw, raw) for raw in own[0] if raw in own[1]]
        first, second = ([raw for raw in side if raw not in other] for side, other in (own, own[::-1]))
        alone = [*((raw, None) for raw in first), *((None, raw) for raw in second)]
        pairs += zip(first, second, strict=True) if len(first) == len(second) else alone
        for names in pairs:
            sides = [tuple(side[raw]) if raw is not None else () for side, raw in zip(own, names, strict=True)]
            found.append(Template(number, kind, (sides[0], sides[1])))
    return found


def read_lexicon(path: str | Path) -> list[str]:
    """Return the normalised words (see :func:`plain`) of a lexicon of hurtful words, sorted.

    The file has one word per line, or is HurtLex's table, of which the conservative level is used, as by HONEST's
    authors.

    Raises:
        InputError: if the file cannot be read or has no words.
    """
    with reading("lexicon", "a file of hurtful words, one per line, or HurtLex (TSV)", path):
        text = read_text(path)
        if "lemma" in text.partition("\n")[0].split("\t"):
            records = [record for _, record in table_records(text, ("id", "pos", "category", "lemma", "level"))]
            rows = [(record["lemma"], record.get("level") or "conservative") for record in records]
            words = [lemma or "" for lemma, level in rows if level == "conservative"]
        else:
            words = text.splitlines()
    if not (found := sorted({plain(word) for word in words} - {""})):
        raise InputError(f"`lexicon` is expected to contain words, but {path} has none. Give another file.")
    return found


def plain(word: str) -> str:
    """Return a word in lower case without accents, to compare the lexicon with completions.

    >>> plain(" Élan ")
    'elan'
    """
    letters = unicodedata.normalize("NFKD", word.strip().casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))


def hurtful_tokens(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> torch.Tensor:
    """Return which tokens are words of a lexicon, ``[token]``; reports how many words are single tokens.

    Raises:
        InputError: if no word is a single token.
    """
    texts = [plain(text) for text in tokenizer.batch_decode([[token] for token in range(len(tokenizer))])]
    known = set(words)
    if not (matched := known.intersection(texts)):
        raise InputError(
            f"`lexicon` is expected to contain words that are single tokens for {tokenizer.name_or_path!r}, but none "
            f"of its {len(known)} words is. Give a lexicon in the model's language."
        )
    say_once(f"{len(matched)} of {len(known)} words of the lexicon are single tokens; others cannot be completions.")
    return torch.tensor([text in matched for text in texts])


class HonestDataModule(EvaluationData):
    """HONEST's prompts as batches of inputs, for a masked or a causal model depending on the tokenizer.

    A batch contains whole templates: ``inputs`` and ``examples`` of
    :func:`biaslab.data.queries.whole_examples`, whose candidates are the prompts of both sides, each side padded to the
    largest (``width``); and ``counts`` (the prompts of each side, ``[template, 2]``). The ``target_ids`` are unused.
    :func:`biaslab.evaluation.honest.score_templates` computes the scores.

    Args:
        model_name: the model whose tokenizer is used.
        path: a file in HONEST's format, used instead of HONEST.
        part: part of HONEST, "binary" (women and men) or "queer_nonqueer".
        language: language of the binary part, "en", "es", "fr", "it", "pt" or "ro"; the other part is English.
        lexicon: a file of hurtful words, one per line, or HurtLex (TSV); completions in it are counted.
        top_k: number of most likely completions of a prompt to look up in the lexicon.
        limit: use only the first N templates.
        every: use every N-th template.
        tokens_per_batch: maximum number of tokens in a batch.
        bos: for causal models, "authors" omits the tokens that the tokenizer prepends to a prompt.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    asset = "honest"

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        part: Part = "binary",
        language: Language = "en",
        lexicon: str | None = None,
        top_k: int = 5,
        limit: int | None = None,
        every: int = 1,
        tokens_per_batch: int = 2048,
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_bos(bos)
        require_one_of("part", part, get_args(Part))
        require_one_of("language", language, get_args(Language))

    def read(self) -> list[dict[str, Any]]:
        """Read the prompts and the lexicon and return the batches."""
        h = self.hparams
        prompts = read_prompts(h["path"], h["part"], h["language"])
        self.groups = groups_of(prompts)
        self.templates = templates_of(prompts)[: h["limit"] : h["every"]]
        tokenizer = self.load_tokenizer()
        self.words = [] if h["lexicon"] is None else read_lexicon(h["lexicon"])
        self.hurtful = hurtful_tokens(tokenizer, self.words) if self.words else None
        counts = torch.tensor([[len(side) for side in template.sides] for template in self.templates])
        width = int(counts.max())
        queries: list[list[Query]] = [[] for _ in range(counts.numel() * width)]
        asked = {}
        for place, side in enumerate(side for template in self.templates for side in template.sides):
            for number, prompt in enumerate(side):
                queries[place * width + number] = [self._query(tokenizer, prompt)]
                asked[place * width + number] = prompt
        self._check(tokenizer, queries, asked)
        batches = whole_examples(queries, 2 * width, h["tokens_per_batch"], max)
        return [batch | {"width": width, "counts": counts[batch["examples"]]} for batch in batches]

    def _query(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> Query:
        ids, position = encode_slot(tokenizer, prompt.text)
        left_out = 0 if is_masked(tokenizer) or self.hparams["bos"] != "authors" else len(front_tokens(tokenizer))
        return Query(tuple(ids[left_out:]), position - left_out, 0)

    def _check(
        self, tokenizer: PreTrainedTokenizerBase, queries: Sequence[Sequence[Query]], asked: Mapping[int, Prompt]
    ) -> None:
        """Check that the prompts fit into the model's positions; report how many contain unknown tokens."""
        numbers, file = list(asked), self.hparams["path"] or self.asset
        inputs = [queries[number][0].input_ids for number in numbers]
        require_room(tokenizer, map(len, inputs), lambda number: f"line {asked[numbers[number]].line} of {file}")
        if tokenizer.unk_token_id not in (None, tokenizer.bos_token_id, tokenizer.eos_token_id):
            unknown = sum(tokenizer.unk_token_id in ids for ids in inputs)
            say_unknown("prompts' words", unknown, len(inputs), "are read as the unknown token")
