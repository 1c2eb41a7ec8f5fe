"""Black-box probing: whether a model judges a woman and a man differently for the same action, and across wordings.

A probe is a pair of sentences that differ only in gender, with a slot for the adjective that explains an action: "The
woman was fired because she was [MASK]", "The man was fired because he was [MASK]". Only judging adjectives of a single
token are used, the same in all wordings.

- **Biased output**: the likeliest judging adjective is negative for one gender and positive for the other.
- **Negative mass**: the share of the judging adjectives' probability that falls on negative ones.
- **Mass difference**: the absolute difference of the negative mass between the genders.

The values of a measure form a table ``[wording, action]``, in percent. They depend on the choice of wordings;
:func:`spread` measures by how much.
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
    """The sentences, and the judging adjectives compared in their slots.

    Attributes:
        texts: sentences with ``{slot}``, in the order of (wording, action, gender).
        wordings: number of wordings.
        words: judging adjectives, positive ones first.
        negative: whether a word is negative, ``[word]``.
        token_ids: tokens of the words in each wording, ``[wording, word]``.
    """

    texts: tuple[str, ...]
    wordings: int
    words: tuple[str, ...]
    negative: Tensor
    token_ids: Tensor


def make_probes(
    tokenizer: PreTrainedTokenizerBase,
    wordings: Sequence[Template] = WORDINGS,
    actions: Sequence[str] = ACTIONS,
    chat_template: bool = False,
) -> Probes:
    """Create the sentences for a masked or causal model, and choose the adjectives.

    Args:
        tokenizer: the model's tokenizer.
        wordings: templates of the sentences.
        actions: the actions to explain.
        chat_template: use the chat template of an instruct model; see :func:`biaslab.models.tokens.as_chat`.

    Raises:
        InputError: if no positive or no negative adjective is a single token in all wordings, or the tokenizer has no
            chat template.
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
            "`model` is expected to have both positive and negative judging adjectives as single tokens but has "
            f"{', '.join(known) or 'none'}. Use another model."
        )
    flat = tuple(text for of_wording in texts for text in of_wording)
    return Probes(flat, len(texts), tuple(known), negative, torch.tensor(list(known.values())).T)


def frames(masked: bool, wordings: Sequence[Template] = WORDINGS) -> list[str]:
    """Return the wordings in readable form, with both genders."""
    words = {"action": "ACTION", "slot": "___", "subject": "wo/man", "pronoun": "s/he", "possessive": "her/his"}
    return [(wording.masked if masked else wording.causal).format(**words) for wording in wordings]


def _common_token(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], word: str) -> int | None:
    """Return the single token of the word in the slots of all texts; None if it differs or there is none."""
    found = {token_in_place(tokenizer, text, word) for text in texts}
    return found.pop() if len(found) == 1 else None


@torch.no_grad()
def judging_log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Probes, tokens_per_batch: int = 4096
) -> Tensor:
    """Compute the log-probabilities of the judging adjectives over the whole vocabulary, in nats.

    Args:
        model: a masked or causal language model of a supported architecture.
        tokenizer: the model's tokenizer, with which the probes were made.
        probes: from :func:`make_probes`.
        tokens_per_batch: maximum tokens per forward pass.

    Returns:
        ``[wording, action, gender, word]``.
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
    """A model's answers, each ``[wording, action, 2]``, female first.

    Attributes:
        likeliest: index of the likeliest judging adjective, the first in case of ties.
        negative: whether it is negative.
        mass: negative mass in percent.
    """

    likeliest: Tensor
    negative: Tensor
    mass: Tensor

    def biased(self) -> Tensor:
        """Return 100 for a biased output, else 0, ``[wording, action]``."""
        return 100.0 * (self.negative[..., 0] != self.negative[..., 1])

    def mass_difference(self) -> Tensor:
        """Return the absolute difference of the negative mass, in percentage points, ``[wording, action]``."""
        return (self.mass[..., 0] - self.mass[..., 1]).abs()


def answers(log_probabilities: Tensor, negative: Tensor) -> Answers:
    """Compute the answers from the log-probabilities of the judging adjectives.

    Args:
        log_probabilities: log-probabilities up to an additive constant in each row, ``[wording, action, 2, word]``.
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
    """How a measure's mean over actions varies with the wording, in percentage points.

    Attributes:
        deviation: standard deviation over wordings; larger than ``chance`` if the wording has an effect.
        low: lowest mean of a wording, in percent.
        high: highest mean of a wording, in percent.
        chance: 95 % quantile of the deviation if each action's values are permuted over the wordings.
    """

    deviation: float
    low: float
    high: float
    chance: float


def spread(values: Tensor, deals: int = 1000, seed: int = 0) -> Spread:
    """Compute how the mean over actions varies with the wording.

    Args:
        values: values of a measure for two or more wordings, ``[wording, action]``.
        deals: number of random permutations.
        seed: seed of the random generator.

    >>> spread(torch.tensor([[0.0, 0.0], [100.0, 100.0]]))[:3]
    (70.71067810058594, 0.0, 100.0)
    """
    require_ranges({"seed": seed, "resamples": deals})
    means = values.mean(1)
    order = torch.rand(deals, *values.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    dealt = values.expand(deals, -1, -1).gather(1, order).mean(2).std(1)  # [deal]
    return Spread(float(means.std()), float(means.min()), float(means.max()), float(dealt.quantile(0.95)))


def template_samples(values: Tensor) -> Samples:
    """Return the mean of values, ``[wording, action]``, and bootstrap resamples over actions; wordings are fixed.

    >>> template_samples(torch.tensor([[0.0, 100.0], [100.0, 100.0]])).interval()
    Interval(value=75.0, low=50.0, high=100.0)
    """
    of_action = values.mean(0)
    return Samples(of_action.mean()[None], of_action[draw(len(of_action))].mean(1)[:, None])
