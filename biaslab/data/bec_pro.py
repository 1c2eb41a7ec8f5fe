"""BEC-Pro: sentences about a person and their profession, and batches that measure how strongly they associate."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biaslab.data.module import EvaluationData, problem
from biaslab.data.queries import Queries, Query, group_places, group_queries, whole_examples
from biaslab.data.records import table_records
from biaslab.errors import InputError, read_text, reading, require_one_of
from biaslab.models import assets
from biaslab.models.positions import require_room, say_unknown
from biaslab.models.tokens import (
    SLOT,
    Bos,
    Encoded,
    beginning,
    encode_slot,
    is_masked,
    require_bos,
    tokens_in_place,
    with_slots,
)

GENDERS = ("male", "female")  # of persons
GROUPS = ("male", "female", "balanced")  # of professions, by the gender of most workers
Language = Literal["en", "de"]
_COLUMNS = ("Sentence", "Template", "Person", "Gender", "Profession", "Prof_Gender")


class Sentence(NamedTuple):
    """A sentence about a person and their profession, split into parts."""

    before: str  # text before the person word, such as "My "
    person: str  # the person word
    between: str
    profession: str
    after: str
    gender: str  # of the person, one of GENDERS
    line: int  # in the file

    @property
    def text(self) -> str:
        """The whole sentence."""
        return "".join(self[:5])


class Question(NamedTuple):
    """A profession in one wording, with a sentence for each person."""

    profession: str  # identifies it across wordings: the English name if the file has it
    group: str  # one of GROUPS
    wording: int
    sentences: tuple[Sentence, ...]


def read_questions(path: str | Path | None = None, language: Language = "en") -> list[Question]:
    """Return the questions of a table in BEC-Pro's format, wording by wording; without a path, those of the asset.

    Reads the plain sentences, not the masked ones, as a few of these also mask parts of other words. Wordings are
    numbered per gender in the file's order of templates: some German templates have a form for each gender.

    Raises:
        InputError: if the file cannot be read or is not BEC-Pro; the message gives the line and the problem.
    """
    source = assets.fetch("bec-pro") / f"BEC-Pro_{language.upper()}.tsv" if path is None else Path(path)
    found: dict[tuple[int, str], tuple[str, list[Sentence]]] = {}
    wordings: dict[str, dict[str, int]] = {gender: {} for gender in GENDERS}
    with reading("path", "a BEC-Pro file (TSV)", source):
        for line, record in table_records(read_text(source), _COLUMNS):
            sentence = _sentence(source, line, record)
            templates = wordings[sentence.gender]
            wording = templates.setdefault(record["Template"], len(templates))
            key = wording, (record.get("Profession_EN") or record["Profession"])
            group, sentences = found.setdefault(key, (record["Prof_Gender"], []))
            if group != record["Prof_Gender"]:
                wrong = f"has the Prof_Gender {record['Prof_Gender']!r}, but an earlier line has {group!r}"
                raise _fault(source, line, wrong)
            sentences.append(sentence)
    if not found:
        raise InputError(f"`path` is expected to be a BEC-Pro file, but {source} has no sentences. Give another file.")
    return [Question(name, group, wording, tuple(own)) for (wording, name), (group, own) in sorted_by_wording(found)]


def sorted_by_wording(found: Mapping[tuple[int, str], Any]) -> list[tuple[tuple[int, str], Any]]:
    """Return items sorted by wording, and in file order within a wording."""
    return sorted(found.items(), key=lambda item: item[0][0])


def _sentence(source: Path, line: int, record: Mapping[str, Any]) -> Sentence:
    if wrong := problem(record, _COLUMNS, {"Gender": GENDERS, "Prof_Gender": GROUPS}):
        raise _fault(source, line, wrong)
    text, profession = record["Sentence"], record["Profession"]
    place, person = text.rfind(profession), re.search(rf"\b{re.escape(record['Person'])}\b", text)
    if person is None or place < person.end():
        raise _fault(source, line, f"has a sentence without {record['Person']!r} followed by {profession!r}")
    parts = text[: person.start()], person[0], text[person.end() : place], profession, text[place + len(profession) :]
    return Sentence(*parts, record["Gender"], line)


def _fault(source: Path, line: int, wrong: str) -> InputError:
    return InputError(
        f"`path` is expected to be a BEC-Pro file, but line {line} of {source} {wrong}. Fix the file, or give "
        "another one."
    )


def some_professions(questions: Iterable[Question], limit: int | None, every: int) -> list[Question]:
    """Return the questions about a subset of the professions, in file order."""
    questions = list(questions)
    chosen = set(list(dict.fromkeys(question.profession for question in questions))[:limit:every])
    return [question for question in questions if question.profession in chosen]


def masked_pair(tokenizer: PreTrainedTokenizerBase, sentence: Sentence) -> list[list[Query]] | None:
    """Return a masked model's queries for the person word: with the profession, and with the profession masked.

    All tokens of the person word are masked. A masked profession has one mask per word, as in the authors' files.

    Returns:
        ``[2][piece]``; None if the tokenizer does not know the person word.
    """
    masks = " ".join([str(tokenizer.mask_token)] * len(sentence.profession.split()))
    texts = [sentence._replace(person=SLOT, profession=name).text for name in (sentence.profession, masks)]
    pieces = tokens_in_place(tokenizer, texts[0], sentence.person)
    return None if pieces is None else [_pieces(tokenizer, encode_slot(tokenizer, text), pieces) for text in texts]


def _pieces(tokenizer: PreTrainedTokenizerBase, prompt: Encoded, pieces: Sequence[int]) -> list[Query]:
    ids = tuple(with_slots(tokenizer, prompt, pieces))
    return [Query(ids, prompt.position + number, piece) for number, piece in enumerate(pieces)]


def causal_query(tokenizer: PreTrainedTokenizerBase, sentence: Sentence, front: Sequence[int]) -> tuple[Query, int]:
    """Return a causal model's query for the sentence, and the number of tokens before the profession."""
    begun = "".join(sentence[:3]).rstrip()
    ids, start = tokenizer([sentence.text, begun], add_special_tokens=False)["input_ids"]
    shared = next((place for place, pair in enumerate(zip(ids, start, strict=False)) if len({*pair}) > 1), len(start))
    return Query((*front, *ids), len(front) + len(ids) - 1, ids[-1]), min(shared, len(ids) - 1)


class BecProDataModule(EvaluationData):
    """BEC-Pro as batches of inputs, for a masked or a causal model depending on the tokenizer.

    A batch contains whole questions, padded to the largest number of persons: ``inputs`` and ``examples`` of
    :func:`biaslab.data.queries.whole_examples`, ``rule`` ("masked" or "causal"), and ``genders`` (indices into GENDERS,
    -1 for padding, ``[question, person]``). For a masked model, the candidates are each person with the profession and
    with the profession masked, and the inputs come from :func:`biaslab.data.queries.group_places`. For a causal model,
    they are the sentences, with ``starts`` (tokens before the profession, ``[question, person]``), ``front`` and, if
    nothing is prepended, ``start_id``. :func:`biaslab.evaluation.bec_pro.score_questions` computes its scores.

    Args:
        model_name: the model whose tokenizer is used.
        path: a file in BEC-Pro's format, used instead of BEC-Pro.
        language: language of BEC-Pro, "en" or "de".
        limit: use only the first N professions of the file.
        every: use every N-th profession of the file, which keeps some of each group.
        tokens_per_batch: maximum number of tokens in a batch.
        bos: for causal models, what sentences are conditioned on; see
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    asset = "bec-pro"
    group_names: tuple[str, ...] = GROUPS

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        path: str | None = None,
        language: Language = "en",
        limit: int | None = None,
        every: int = 1,
        tokens_per_batch: int = 4096,
        bos: Bos = "tokenizer",
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_bos(bos)
        require_one_of("language", language, get_args(Language))

    def read(self) -> list[dict[str, Any]]:
        """Read the questions and return their batches."""
        h = self.hparams
        self.questions = some_professions(read_questions(h["path"], h["language"]), h["limit"], h["every"])
        tokenizer = self.load_tokenizer()
        most = max(len(question.sentences) for question in self.questions)
        genders = torch.full((len(self.questions), most), -1)
        for number, question in enumerate(self.questions):
            genders[number, : len(question.sentences)] = torch.tensor(
                [GENDERS.index(sentence.gender) for sentence in question.sentences]
            )
        batches = (self._masked if is_masked(tokenizer) else self._causal)(tokenizer, genders)
        return [batch | {"genders": genders[batch["examples"]]} for batch in batches]

    def _masked(self, tokenizer: PreTrainedTokenizerBase, genders: Tensor) -> list[dict[str, Any]]:
        """Return the batches for a masked model; persons unknown to the tokenizer are treated as padding."""
        queries: Queries = [[] for _ in range(2 * genders.numel())]
        unknown = 0
        for number, place, sentence in self._sentences():
            if (both := masked_pair(tokenizer, sentence)) is None:
                genders[number, place] = -1
                unknown += 1
            else:
                at = 2 * (number * genders.shape[1] + place)
                queries[at : at + 2] = both
        say_unknown("sentences' person words", unknown, sum(len(q.sentences) for q in self.questions), "are skipped")
        self._require_both(genders)
        self._require_room(tokenizer, queries, 2)
        size = self.hparams["tokens_per_batch"]
        batches = whole_examples(queries, 2 * genders.shape[1], size, lambda lengths: 0, group_places)
        return [{"rule": "masked", **batch} for batch in batches]

    def _causal(self, tokenizer: PreTrainedTokenizerBase, genders: Tensor) -> list[dict[str, Any]]:
        """Return the batches for a causal model."""
        start = beginning(tokenizer, self.hparams["bos"])
        queries: Queries = [[] for _ in range(genders.numel())]
        starts = torch.zeros_like(genders)
        for number, place, sentence in self._sentences():
            query, starts[number, place] = causal_query(tokenizer, sentence, start.front)
            queries[number * genders.shape[1] + place] = [query]
        self._require_both(genders)
        self._require_room(tokenizer, queries, 1)
        kind = {"rule": "causal", "start_id": start.start_id, "front": len(start.front)}
        # neighbours have the same wording and share a prefix
        batches = whole_examples(
            queries, genders.shape[1], self.hparams["tokens_per_batch"], lambda lengths: 0, group_queries
        )
        return [kind | batch | {"starts": starts[batch["examples"]]} for batch in batches]

    def _sentences(self) -> list[tuple[int, int, Sentence]]:
        """Return each sentence with the index of its question and its index there."""
        numbered = enumerate(self.questions)
        return [(number, place, own) for number, each in numbered for place, own in enumerate(each.sentences)]

    def _require_both(self, genders: Tensor) -> None:
        for number in range(len(GENDERS)):
            lacking = ~(genders == number).any(1)
            if bool(lacking.any()):
                question = self.questions[int(lacking.nonzero()[0])]
                raise InputError(
                    f"`path` is expected to contain persons of both genders that the tokenizer knows, but "
                    f"{question.profession!r} in wording {question.wording + 1} has no {GENDERS[number]} person. "
                    "Give another file or model."
                )

    def _require_room(self, tokenizer: PreTrainedTokenizerBase, queries: Queries, each: int) -> None:
        """Check the inputs' lengths; a person has ``each`` candidates."""
        width, file = len(queries) // len(self.questions), self.hparams["path"] or self.asset

        def place(number: int) -> str:
            question, candidate = divmod(number, width)
            return f"the sentence of line {self.questions[question].sentences[candidate // each].line} of {file}"

        lengths = (max((len(query.input_ids) for query in own), default=0) for own in queries)
        require_room(tokenizer, lengths, place)
