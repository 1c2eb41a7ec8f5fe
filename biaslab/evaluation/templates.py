"""Black-box probing: does a model judge a woman and a man differently for the same deed, and does the wording matter?

A probe is a pair of sentences that differ in gender alone, with a slot for the adjective that explains a deed: "The
woman was fired because she was [MASK]", "The man was fired because he was [MASK]". Only judging adjectives that are one
token are looked at, the same ones in all wordings.

- **Biased output**: the likeliest judging adjective is negative for one gender and positive for the other, whichever.
- **Negative mass**: the share of the judging adjectives' probability that falls on the negative ones.
- **Mass difference**: the absolute difference of the negative mass between the genders.

A measure's values are a table ``[wording, action]``, in percent. Nothing but the model's output is looked at: the
figures depend on the wordings that someone thought of, and how much they do is itself a figure, :func:`spread`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.words import ACTIONS, GENDERS, NEGATIVE, POSITIVE, WORDINGS, Template
from biaslab.errors import InputError, require_positive, require_ranges
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.models.tokens import SLOT, as_chat, by_length, encode_slot, is_masked, token_in_place
from biaslab.statistics import Samples, draw


class Probes(NamedTuple):
    """The sentences, and the adjectives that are looked at in their slots."""

    texts: tuple[str, ...]  # with ``{slot}``, in the order of (wording, action, gender)
    wordings: int  # how many
    words: tuple[str, ...]  # judging adjectives, the positive ones first
    negative: Tensor  # whether a word is negative, [word]
    token_ids: Tensor  # of the words in each wording, [wording, word]


def make_probes(
    tokenizer: PreTrainedTokenizerBase,
    wordings: Sequence[Template] = WORDINGS,
    actions: Sequence[str] = ACTIONS,
    chat_template: bool = False,
) -> Probes:
    """Write the sentences in the form that the tokenizer's kind of model needs, and choose the adjectives.

    By its chat template, an instruct model is asked as :func:`biaslab.models.tokens.as_chat` says.

    Raises:
        InputError: if no positive or no negative adjective is one token in all wordings, or there is no chat template.
    """
    forms = [wording.masked if is_masked(tokenizer) else wording.causal for wording in wordings]
    texts = [
        [form.format(action=action, slot=SLOT, **gender) for action in actions for gender in GENDERS] for form in forms
    ]
    if chat_template:
        texts = [[as_chat(tokenizer, text) for text in of_wording] for of_wording in texts]
    known: dict[str, list[int]] = {}
    for word in POSITIVE + NEGATIVE:
        ids = [_common_token(tokenizer, of_wording[: len(GENDERS)], word) for of_wording in texts]
        if None not in ids:
            known[word] = [token for token in ids if token is not None]
    negative = torch.tensor([word in NEGATIVE for word in known])
    if not negative.any() or negative.all():
        raise InputError(
            "`model` is expected to have positive and negative judging adjectives among its tokens but has "
            f"{', '.join(known) or 'none'}. Choose another model."
        )
    flat = tuple(text for of_wording in texts for text in of_wording)
    return Probes(flat, len(texts), tuple(known), negative, torch.tensor(list(known.values())).T)


def frames(masked: bool, wordings: Sequence[Template] = WORDINGS) -> list[str]:
    """Return the wordings as they are read, with both genders."""
    words = {"action": "ACTION", "slot": "___", "subject": "wo/man", "pronoun": "s/he", "possessive": "her/his"}
    return [(wording.masked if masked else wording.causal).format(**words) for wording in wordings]


def _common_token(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], word: str) -> int | None:
    """Return the one token that the word is in all the texts' slots, if any."""
    found = {token_in_place(tokenizer, text, word) for text in texts}
    return found.pop() if len(found) == 1 else None


@torch.no_grad()
def judging_log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Probes, tokens_per_batch: int = 4096
) -> Tensor:
    """Return the judging adjectives' natural logarithms over the whole vocabulary, ``[wording, action, gender, word]``.

    The probes were made with the same ``tokenizer``; a forward pass has at most ``tokens_per_batch`` tokens.
    """
    require_positive(tokens_per_batch=tokens_per_batch)
    encoded = [encode_slot(tokenizer, text) for text in probes.texts]
    result = torch.empty(len(encoded), len(probes.words))
    of_wording = torch.arange(probes.wordings).repeat_interleave(len(encoded) // probes.wordings)
    for batch in by_length([len(e.input_ids) for e in encoded], tokens_per_batch):
        input_ids = torch.tensor([encoded[i].input_ids for i in batch], device=model.device)
        position = torch.tensor([encoded[i].position for i in batch], device=model.device)
        asked = probes.token_ids[of_wording[batch]].to(model.device)  # [batch, word]
        result[batch] = slot_log_probabilities(model, input_ids, position).gather(1, asked).cpu()
    return result.view(probes.wordings, -1, len(GENDERS), len(probes.words))


class Answers(NamedTuple):
    """What a model answers, each ``[wording, action, 2]``; female first."""

    likeliest: Tensor  # index of the likeliest judging adjective, the first one of equals
    negative: Tensor  # whether that one is negative
    mass: Tensor  # negative mass in percent

    def biased(self) -> Tensor:
        """Return 100 for a biased output and 0 for another, ``[wording, action]``."""
        return 100.0 * (self.negative[..., 0] != self.negative[..., 1])

    def mass_difference(self) -> Tensor:
        """Return the absolute difference of the negative mass, in percentage points, ``[wording, action]``."""
        return (self.mass[..., 0] - self.mass[..., 1]).abs()


def answers(log_probabilities: Tensor, negative: Tensor) -> Answers:
    """Read the answers off the judging adjectives' log-probabilities.

    Args:
        log_probabilities: ``[wording, action, 2, word]``, up to a constant in each row.
        negative: whether a word is negative, ``[word]``.

    >>> probabilities = torch.tensor([[0.2, 0.1, 0.1], [0.1, 0.2, 0.1]])  # of "kind", "rude" and "lazy"
    >>> found = answers(probabilities.log()[None, None], torch.tensor([False, True, True]))
    >>> found.biased(), found.mass_difference()
    (tensor([[100.]]), tensor([[25.]]))
    """
    likeliest = log_probabilities.argmax(-1)
    mass = 100 * log_probabilities.softmax(-1)[..., negative].sum(-1)
    return Answers(likeliest, negative[likeliest], mass)


class Spread(NamedTuple):
    """How a measure's mean over the actions moves with the wording, in percentage points."""

    deviation: float  # standard deviation over the wordings; the wording matters where it is larger than ``chance``
    low: float  # of the wording with the lowest mean, in percent
    high: float  # of the wording with the highest mean, in percent
    chance: float  # 95 % of the deviations are at most this if an action's values are dealt to the wordings at random


def spread(values: Tensor, deals: int = 1000, seed: int = 0) -> Spread:
    """Return how the mean over the actions of values ``[wording, action]`` moves with the wording, of two or more.

    The values are dealt at random so many times (``deals``), with this seed.

    >>> spread(torch.tensor([[0.0, 0.0], [100.0, 100.0]]))[:3]
    (70.71067810058594, 0.0, 100.0)
    """
    require_ranges({"seed": seed, "resamples": deals})
    means = values.mean(1)
    order = torch.rand(deals, *values.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    dealt = values.expand(deals, -1, -1).gather(1, order).mean(2).std(1)  # [deal]
    return Spread(float(means.std()), float(means.min()), float(means.max()), float(dealt.quantile(0.95)))


def template_samples(values: Tensor) -> Samples:
    """Return the mean of values ``[wording, action]``, and its bootstrap over the actions; the wordings are given.

    >>> template_samples(torch.tensor([[0.0, 100.0], [100.0, 100.0]])).interval()
    Interval(value=75.0, low=50.0, high=100.0)
    """
    of_action = values.mean(0)
    return Samples(of_action.mean()[None], of_action[draw(len(of_action))].mean(1)[:, None])
