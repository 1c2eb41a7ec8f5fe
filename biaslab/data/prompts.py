"""Prompts: a slot for the demographics of a dimension, a judging modifier, and about seventeen wordings."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler
from transformers import PreTrainedTokenizerBase

from biaslab.data import contrast, effects, words
from biaslab.data.module import TokenizedData, loader
from biaslab.data.own_words import read_words
from biaslab.data.prompt_texts import Pair as Pair
from biaslab.data.prompt_texts import Part as Part
from biaslab.data.prompt_texts import Prompt as Prompt
from biaslab.data.prompt_texts import make_prompts as make_prompts
from biaslab.data.prompt_texts import read_prompts as read_prompts
from biaslab.errors import (
    InputError,
    require_name_or_file,
    require_one_of,
)
from biaslab.models.positions import require_room
from biaslab.models.tokens import (
    Bos,
    Encoded,
    as_chat,
    by_length,
    encode_slot,
    is_masked,
    require_bos,
    tokens_in_place,
    with_slots,
)

Attributed = Literal["pairs", "demographics"]
_MODIFIERS = 3  # per kind, in the prompts whose effects are measured
Batch = dict[str, Any]


class Dimension(NamedTuple):
    """The demographics of a dimension that are known to the model."""

    name: str
    words: tuple[str, ...]  # sorted by number of tokens, then by their tokens except the last
    token_ids: tuple[tuple[int, ...], ...]  # tokens of each word
    pairs: tuple[tuple[int, int], ...]  # indices into words

    @property
    def pair_names(self) -> list[str]:
        """Names of the pairs, such as ``gender/female-male``."""
        return [f"{self.name}/{self.words[first]}-{self.words[second]}" for first, second in self.pairs]


def resolve_dimension(
    tokenizer: PreTrainedTokenizerBase, name: str, pairs: Sequence[Pair], texts: Sequence[str]
) -> tuple[Dimension, dict[str, str]]:
    """Return a dimension with the pairs whose words are known tokens in each text's slot, and why others are dropped.

    ``texts`` has one text for each wording.
    """
    tokens = {word: _known_tokens(tokenizer, word, texts) for word in dict.fromkeys(chain.from_iterable(pairs))}
    kept, dropped = [], {}
    for first, second in pairs:
        if missing := " and ".join(repr(word) for word in (first, second) if tokens[word] is None):
            dropped[f"{name}/{first}-{second}"] = f"{missing}: tokens are unknown or differ between wordings"
        elif tokens[first] == tokens[second]:
            dropped[f"{name}/{first}-{second}"] = "both have the same tokens"
        else:
            kept.append((first, second))
    known = {word: tokens[word] or () for pair in kept for word in pair}
    demographics = tuple(sorted(known, key=lambda word: (len(known[word]), known[word][:-1])))
    places = tuple((demographics.index(first), demographics.index(second)) for first, second in kept)
    return Dimension(name, demographics, tuple(known[word] for word in demographics), places), dropped


def _known_tokens(tokenizer: PreTrainedTokenizerBase, word: str, texts: Sequence[str]) -> tuple[int, ...] | None:
    """Return the tokens of a word; capitalised if only that form is a single token."""
    variants = dict.fromkeys((word, word.capitalize(), word.title()))
    tokens = [{tokens_in_place(tokenizer, text, variant) for text in texts} for variant in variants]
    known = [ids for each in tokens if len(each) == 1 for ids in each if ids is not None]
    return min(known, key=lambda ids: len(ids) > 1, default=None)


class PromptDataModule(TokenizedData):
    """Prompts, and the contrast set of the guard, in batches of equal length.

    A batch has its ``number``, ``input_ids`` ``[batch, sequence]``, ``position``, ``kind``, ``group``, ``wording``,
    ``example`` ``[batch]``, ``target_ids`` ``[batch, target]``, ``pairs`` ``[pair, 2]`` (two targets each, or one:
    ``[pair, 1]``) and ``pair`` ``[pair]`` (the pair's index).

    Demographics of several tokens need other ``input_ids``, several slots (``position`` ``[batch, slot]``), and as many
    ``target_ids`` each (``[batch, target, slot]``): ``longer`` is a list of such inputs, whose targets follow. For a
    masked model they have one mask per token of the word; for a causal model, the word without its last token.

    Batches for effects at all positions follow: prompts in more wordings, and those of :mod:`biaslab.data.effects`.

    Args:
        model_name: the model whose tokenizer is used.
        dimensions: some of the nine built-in dimensions, or of ``words``; default: all nine, or all of ``words``.
        pairs: demographic pairs for each dimension; default: consecutive words.
        words: a JSON or YAML file of custom dimensions, see :func:`biaslab.data.own_words.read_words`; a dimension
            with a built-in name replaces the built-in one.
        kinds: kinds of modifiers; default: all six.
        modifiers: number of modifiers of each kind.
        part: "find" or "held_out".
        attributed: "pairs" (their gaps: IG²), or single "demographics" (their probabilities: IG).
        path: a file in the format of the paper's authors, used instead of generated prompts.
        contrast: sources of the guard's contrast set: "stereoset" (its test split), "bold", "bug", "panda" or a text
            file, or several of these; None for no guard.
        contrast_limit: maximum number of sentences from each source.
        tokens_per_batch: maximum number of tokens in a batch.
        contrast_terms: StereoSet's target terms in the contrast set: "all", or one half ("find"), so that settings can
            be chosen on the other half.
        contrast_positions: where the effect of neurons on the contrast set is measured: at the "slot", by IG² (for the
            selection "guarded"), or at "all" positions, by first-order effects (for "fisher" and "balanced"; then
            StereoSet's words of several tokens are included, and plain sentences show what the language model needs).
            Only "all" also supports the sources "pairs" (minimal pairs), "panda-pairs" (PANDA's sentences with their
            rewrites) and "knowledge" (sentences about the meaning of words).
        bos: for causal models, what sentences of the contrast set are conditioned on at "all" positions; see
            :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`. Prompts always start with the tokenizer's tokens.
        chat_template: use an instruct model's chat template for each prompt, see
            :func:`biaslab.models.tokens.as_chat`: the user asks to complete the sentence, and the assistant's turn
            starts with it.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        dimensions: Sequence[str] | None = None,
        pairs: Mapping[str, Sequence[Sequence[str]]] | None = None,
        kinds: Sequence[str] | None = None,
        modifiers: int = 100,
        part: Part = "find",
        attributed: Attributed = "pairs",
        path: str | None = None,
        contrast: str | Sequence[str] | None = None,
        contrast_limit: int = 2000,
        tokens_per_batch: int = 512,
        contrast_terms: Literal["all", "find"] = "all",
        contrast_positions: Literal["slot", "all"] = "slot",
        words: str | None = None,
        bos: Bos = "tokenizer",
        chat_template: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_one_of("attributed", attributed, ["pairs", "demographics"])
        require_one_of("contrast_terms", contrast_terms, ["all", "find"])
        require_one_of("contrast_positions", contrast_positions, ["slot", "all"])
        require_bos(bos)
        for source in self.sources():
            require_name_or_file("contrast", source, effects.SOURCES)

    def sources(self) -> list[str]:
        """Return the sources of the contrast set."""
        return contrast.sources_of(self.hparams["contrast"])

    def setup(self, stage: str) -> None:
        """Generate or read the prompts and find the demographics' tokens; only once, even with several trainers."""
        if hasattr(self, "fingerprint"):
            return
        h = self.hparams
        self.tokenizer = self.load_tokenizer()
        prompts, pairs = self._prompts_and_pairs()
        for prompt in prompts:
            if is_masked(self.tokenizer) and str(self.tokenizer.mask_token) in prompt.text:
                mask = self.tokenizer.mask_token
                raise InputError(f"`prompt` is expected to have one slot but also contains {mask}: {prompt.text!r}.")
        self.dimensions: dict[str, Dimension] = {}
        self.dropped: dict[str, str] = {}
        self.pair_names: list[str] = []
        for name, wanted in pairs.items():
            own = [prompt for prompt in prompts if prompt.dimension == name]
            texts = [self._asked(prompt) for prompt in own if prompt[1:] == own[0][1:]]  # one of each wording
            dimension, dropped = resolve_dimension(self.tokenizer, name, wanted, texts)
            self.dimensions[name] = dimension
            self.dropped |= dropped
            single = [f"{name}/{word}" for word in dimension.words]
            self.pair_names += single if h["attributed"] == "demographics" else dimension.pair_names
        if not self.pair_names:
            reasons = "; ".join(f"{pair}: {why}" for pair, why in self.dropped.items())
            raise InputError(f"`pairs` is expected to contain demographics with known tokens but: {reasons}.")
        self.kind_names = list(dict.fromkeys(prompt.kind for prompt in prompts))
        self.prompts = [prompt for prompt in prompts if self.dimensions[prompt.dimension].pairs]
        self.batches = self._batches(self.prompts)
        limits = h["contrast_limit"], h["tokens_per_batch"], h["contrast_terms"]
        if h["contrast_positions"] == "all":
            of_contrast = effects.make_batches(self.tokenizer, self.sources(), *limits, h["bos"])
            self.contrast_batches = [*self._effect_batches(), *of_contrast]
        else:
            self.contrast_batches = contrast.make_batches(self.tokenizer, h["contrast"], *limits)
        for number, batch in enumerate([*self.batches, *self.contrast_batches]):
            batch["number"] = number
        # the fingerprint depends on all prompts, pairs and sentences of the contrast set
        contrast_set = [[batch["input_ids"].tolist(), batch["target_ids"].tolist()] for batch in self.contrast_batches]
        in_chat = [self._asked(prompt) for prompt in self.prompts[:1]] if h["chat_template"] else []
        content = json.dumps([self.prompts, self.pair_names, contrast_set, *in_chat])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]

    def _asked(self, prompt: Prompt) -> str:
        """Return the text of a prompt as given to the model."""
        return as_chat(self.tokenizer, prompt.text) if self.hparams["chat_template"] else prompt.text

    def _prompts_and_pairs(self) -> tuple[list[Prompt], dict[str, list[Pair]]]:
        h, given = self.hparams, self.hparams["pairs"] or {}
        if h["path"] is not None and h["words"] is not None:
            raise InputError("`words` is expected to be used without `path` but got both. Give one of them.")
        if h["path"] is not None:
            prompts, pairs = read_prompts(h["path"])
        else:
            self._own = read_words(h["words"]) if h["words"] is not None else {}
            dimensions = list(h["dimensions"] or given or self._own or words.DIMENSIONS)
            kinds, masked = h["kinds"] or list(words.MODIFIERS), is_masked(self.tokenizer)
            prompts = make_prompts(dimensions, kinds, h["modifiers"], h["part"], masked, own=self._own)
            every = {name: list(pairwise(known)) for name, known in words.DIMENSIONS.items()}
            every |= {name: list(dimension.pairs) for name, dimension in self._own.items()}
            pairs = {name: every[name] for name in dimensions}
        for name, wanted in given.items():
            if name not in pairs or any(len(pair) != 2 for pair in wanted):
                raise InputError(
                    f"`pairs` is expected to contain pairs of words for {', '.join(pairs)} but got {name}: {wanted}. "
                    "Define custom dimensions in a file (`words`)."
                )
            pairs[name] = [(first, second) for first, second in wanted]
        return prompts, pairs

    def _effect_batches(self) -> Iterator[Batch]:
        """Yield prompts whose effects are measured: each adds its ``share`` to the ``quantity`` of its dimension.

        One pass serves all neurons, so the part "find" uses more wordings and few modifiers.
        """
        h, prompts = self.hparams, self.prompts
        if h["attributed"] == "demographics" or not self.sources():
            return
        if h["path"] is None and h["part"] == "find":
            names = [name for name, dimension in self.dimensions.items() if dimension.pairs]
            prompts, masked = [], is_masked(self.tokenizer)
            for templates in (None, words.FURTHER_TEMPLATES):
                prompts += make_prompts(names, self.kind_names, _MODIFIERS, "find", masked, templates, self._own)
        counts, quantities = Counter(prompt.dimension for prompt in prompts), self.quantities()
        for batch in self._batches(prompts):
            name = prompts[int(batch["example"][0])].dimension
            yield batch | {"share": 1 / counts[name], "quantity": quantities.index(f"{name}/{effects.PROMPTS}")}

    def quantities(self) -> list[str]:
        """Return the names of the quantities for effects at all positions; call after :meth:`setup`."""
        own = [f"{name}/{effects.PROMPTS}" for name, dimension in self.dimensions.items() if dimension.pairs]
        return effects.quantities_of(self.sources()) + own

    def _batches(self, prompts: Sequence[Prompt]) -> list[Batch]:
        first_pair = 0
        batches: list[Batch] = []
        before: defaultdict[tuple[Any, ...], count[int]] = defaultdict(count)  # number of prompts in a group so far
        single = self.hparams["attributed"] == "demographics"
        encoded = [encode_slot(self.tokenizer, self._asked(prompt)) for prompt in prompts]
        labels = {
            "kind": torch.tensor([self.kind_names.index(prompt.kind) for prompt in prompts]),
            "group": torch.tensor([prompt.group for prompt in prompts]),
            "wording": torch.tensor([next(before[prompt[1:]]) for prompt in prompts]),
            "example": torch.arange(len(prompts)),
        }
        for dimension in self.dimensions.values():
            pairs = [(index,) for index in range(len(dimension.words))] if single else dimension.pairs
            pair = {"pairs": torch.tensor(pairs), "pair": torch.arange(first_pair, first_pair + len(pairs))}
            own = [index for index, prompt in enumerate(prompts) if prompt.dimension == dimension.name]
            for batch in by_length([len(encoded[i].input_ids) for i in own], self.hparams["tokens_per_batch"]):
                examples = [own[i] for i in batch]
                inputs, *longer = self._inputs([encoded[i] for i in examples], dimension)
                self._require_room([inputs, *longer], prompts[examples[0]])
                own_labels = {name: label[examples] for name, label in labels.items()}
                batches.append({**inputs, "longer": longer, **pair, **own_labels})
            first_pair += len(pairs)
        return batches

    def _require_room(self, inputs: Sequence[Mapping[str, Tensor]], prompt: Prompt) -> None:
        place = f"the prompt {prompt.text!r}, with its demographics"
        if path := self.hparams["path"]:
            place += f", in group {prompt.group} of {path},"
        require_room(self.tokenizer, [each["input_ids"].shape[1] for each in inputs], lambda _: place)

    def _inputs(self, prompts: Sequence[Encoded], dimension: Dimension) -> list[dict[str, Tensor]]:
        """Return inputs for equally long prompts, one for each set of demographics that can share a sequence."""
        masked = is_masked(self.tokenizer)
        shared: dict[Any, list[tuple[int, ...]]] = {}
        for tokens in dimension.token_ids:
            shared.setdefault(len(tokens) if masked else tokens[:-1], []).append(tokens)
        inputs = []
        for targets in shared.values():
            ids = torch.tensor([with_slots(self.tokenizer, prompt, targets[0]) for prompt in prompts])
            position = torch.tensor([prompt.position for prompt in prompts])[:, None] + torch.arange(len(targets[0]))
            wanted = torch.tensor(targets).expand(len(prompts), -1, -1)
            if len(targets[0]) == 1:
                position, wanted = position[:, 0], wanted[:, :, 0]
            inputs.append({"input_ids": ids, "position": position, "target_ids": wanted})
        return inputs

    def plain_batches(self) -> list[Tensor]:
        """Return the contrast set's ordinary text, batches of ``[sequence, token]``; call after :meth:`setup`."""
        h = self.hparams
        limits = h["contrast_limit"], h["tokens_per_batch"]
        return list(effects.plain_batches(self.tokenizer, self.sources(), *limits, h["bos"]))

    def other_batches(self) -> list[dict[str, Any]]:
        """Return batches of ordinary text not used to find neurons, to measure the cost of suppression."""
        h = self.hparams
        return list(effects.other_batches(self.tokenizer, self.sources(), h["tokens_per_batch"], h["bos"]))

    def predict_dataloader(self) -> list[DataLoader[Batch]]:
        """Return loaders of the prompts and, if there is one, the contrast set.

        Batches are split across processes; with fewer batches than processes, each process gets all of them.
        """
        processes = self.trainer.world_size if self.trainer else 1
        loaders = []
        for batches in [self.batches, self.contrast_batches] if self.contrast_batches else [self.batches]:
            sampler: Sampler[int] = SequentialSampler(batches)  # Lightning splits it across processes
            if not is_divided(batches, processes):  # Lightning leaves this one unchanged
                sampler = DistributedSampler(batches, num_replicas=1, rank=0, shuffle=False)  # type: ignore[arg-type]
            loaders.append(loader(batches, sampler=sampler))
        return loaders


def is_divided(batches: Sequence[Batch], processes: int) -> bool:
    """Return whether batches are split across processes rather than all given to each."""
    return len(batches) >= processes
