"""Measures of a model: StereoSet, CrowS-Pairs, gaps on held-out prompts, perplexity on ordinary text, templates.

To add a measure, add a class here, and its metrics to :data:`biaslab.evaluation.findings.METRICS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import require_ranges
from biaslab.evaluation.findings import OVERALL, PAIRS_LOG_RATIO, SS_LOG_RATIO
from biaslab.evaluation.gaps import demographic_gaps, gap_samples
from biaslab.evaluation.perplexity import negative_log_likelihoods, perplexity_samples, unknown_tokens
from biaslab.evaluation.scoring import score_clusters, score_pairs
from biaslab.evaluation.templates import Answers, Probes, answers, judging_log_probabilities, template_samples
from biaslab.metrics.crows_pairs import (
    crows_pairs_bootstrap,
    crows_pairs_log_ratio,
    crows_pairs_log_ratio_bootstrap,
    crows_pairs_score,
    decided,
)
from biaslab.metrics.rows import Scale
from biaslab.metrics.stereoset import NAMES, bootstrap, log_ratio, log_ratio_bootstrap, point
from biaslab.models import ranks
from biaslab.models.positions import say_once
from biaslab.models.tokens import Bos
from biaslab.statistics import Samples

_T = TypeVar("_T")
_MANY_TIES = 0.05  # share of tied examples above which a message is printed
Figures = dict[tuple[str, str], Samples]  # by metric and scope


class Measure(ABC):
    """Collects a model's answers, and computes metrics from them.

    Args:
        key: everything that the answers depend on besides the model, serializable as JSON.
        facts: sizes of the data, by name.
    """

    name: ClassVar[str]  # of the measure, and of its cached answers
    # whether only the last token of a causal model is used, so that neurons may be suppressed at that token only
    last_token_only: ClassVar[bool] = False
    seeds: int | None = None  # maximum number of treatments (seeds) measured per row; None for all

    def __init__(self, key: Any, **facts: int) -> None:
        self.key, self._facts = key, facts

    def facts(self) -> dict[str, int]:
        """Return the sizes of the data, by name."""
        return self._facts

    def read_by(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Prepare for the tokenizer that will be used; most measures need no preparation."""
        return

    @abstractmethod
    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, title: str) -> Tensor:
        """Return the answers of a treated model on the CPU, showing a progress bar with this title."""

    @abstractmethod
    def figures(self, answers: Tensor) -> Figures:
        """Return the metrics in each scope, with their resamples."""


def progress(items: Sequence[_T], title: str) -> Iterable[_T]:
    """Return this process's share of the items; the first process shows a progress bar with this title."""
    bar: Iterable[_T] = tqdm(ranks.dealt(items), desc=title, leave=False, disable=not ranks.is_first())
    return bar


class Scored(Measure):
    """Base class of measures that score numbered examples, overall and in scopes.

    Args:
        data: a data module, set up for "test".
        examples: examples in the order of their numbers.
        scopes: the scope of each example, besides "overall".
    """

    columns: ClassVar[int]
    counted: ClassVar[str]

    def __init__(self, data: Any, examples: Sequence[Any], scopes: Sequence[str]) -> None:
        super().__init__([examples, dict(data.hparams)], **{self.counted: len(examples)})
        self.batches: Sequence[Mapping[str, Any]] = data.batches
        self.labels = scopes

    @abstractmethod
    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of a batch, ``[example, column]``."""

    @abstractmethod
    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the metrics for scores, ``[example, column]``, of examples with these numbers, ``[example]``."""

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, title: str) -> Tensor:
        """Return the scores in the order of the examples, ``[example, column]``."""
        own = [self.score(model, send_to_device(batch, model.device)).cpu() for batch in progress(self.batches, title)]
        parts = ranks.gathered(own)
        examples = torch.cat([batch["examples"] for batch in self.batches])
        scores = torch.zeros(len(self.labels), self.columns, dtype=parts[0].dtype)
        scores[examples] = torch.cat(parts)
        tied = int(self.tied(scores).sum())
        if tied > _MANY_TIES * len(scores):
            say_once(f"{title}: {tied} of {len(scores)} examples are ties; neither sentence counts as preferred.")
        return scores

    def tied(self, scores: Tensor) -> Tensor:
        """Return which examples are ties, where neither of two sentences counts as preferred, ``[example]``."""
        return torch.zeros(len(scores), dtype=torch.bool)

    def notes(self, scores: Tensor, examples: Tensor) -> dict[str, Any]:
        """Return additional facts for the results of a test run, by name."""
        return {}

    def figures(self, answers: Tensor) -> Figures:
        """Return the metrics overall and in each scope that has examples."""
        return self.figures_of(answers, torch.arange(len(self.labels)))

    def figures_of(self, scores: Tensor, examples: Tensor) -> Figures:
        """Return the :meth:`samples` of some examples, overall and in each scope that they belong to."""
        return {
            (metric, scope): samples
            for scope, inside in self.scopes(examples).items()
            for metric, samples in self.samples(scores[inside], examples[inside]).items()
        }

    def scopes(self, examples: Tensor) -> dict[str, Tensor]:
        """Return which of these examples belong to each scope, ``[example]``."""
        labels = [self.labels[number] for number in examples.tolist()]
        scopes = {OVERALL: torch.ones(len(labels), dtype=torch.bool)}
        return scopes | {name: torch.tensor([own == name for own in labels]) for name in sorted(set(labels))}


class StereoSet(Scored):
    """SS, log-ratio, LMS and ICAT on a :class:`biaslab.data.stereoset.StereoSetDataModule`, overall and by domain."""

    name, columns, counted = "stereoset", 3, "clusters"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.clusters, [cluster.domain for cluster in data.clusters])
        ids = {term: number for number, term in enumerate(data.term_names)}
        self.terms = torch.tensor([ids[cluster.target] for cluster in data.clusters])
        self.scale: Scale = "log_probability" if data.hparams.get("rule") == "pll" else "probability"

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of the candidates, ``[cluster, 3]``."""
        return score_clusters(model, batch).float()

    def tied(self, scores: Tensor) -> Tensor:
        """Return which clusters have an equally likely stereotype and anti-stereotype."""
        return scores[:, 0] == scores[:, 1]

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return macro SS, LMS, ICAT and log-ratio, with resamples over target terms."""
        ratios = [function(scores, self.terms[examples], self.scale) for function in (log_ratio, log_ratio_bootstrap)]
        return self.shares(scores, examples) | {SS_LOG_RATIO: Samples(*(ratio[..., None] for ratio in ratios))}

    def shares(self, scores: Tensor, examples: Tensor) -> dict[str, Samples]:
        """Return macro SS, LMS and ICAT, with resamples over target terms."""
        both = [function(scores, self.terms[examples]) for function in (point, bootstrap)]
        return {name: Samples(*(part[..., [column]] for part in both)) for column, name in enumerate(NAMES)}


class CrowsPairs(Scored):
    """Score and log-ratio on a :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`, overall and by category."""

    name, columns, counted = "crows_pairs", 2, "pairs"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.pairs, [pair.category for pair in data.pairs])
        self.directions = [pair.direction for pair in data.pairs]

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of both sentences, ``[pair, 2]``."""
        return score_pairs(model, batch)

    def tied(self, scores: Tensor) -> Tensor:
        """Return which pairs are neutral (equal to three decimals)."""
        return ~decided(scores)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the score and the log-ratio, with resamples over pairs."""
        ratios = crows_pairs_log_ratio(scores)[None], crows_pairs_log_ratio_bootstrap(scores)[:, None]
        return {"CrowS-Pairs": self._score(scores), PAIRS_LOG_RATIO: Samples(*ratios)}

    @staticmethod
    def _score(scores: Tensor) -> Samples:
        return Samples(crows_pairs_score(scores)[None], crows_pairs_bootstrap(scores)[:, None])

    def by_direction(self, scores: Tensor, examples: Tensor) -> Figures:
        """Return the stereotype and the anti-stereotype score, over non-neutral pairs of one direction each."""
        directions = [self.directions[number] for number in examples.tolist()]
        figures = {}
        for metric, direction in (("stereotype", "stereo"), ("anti-stereotype", "antistereo")):
            chosen = decided(scores) & torch.tensor([own == direction for own in directions])
            for scope, inside in self.scopes(examples).items():
                if bool((both := chosen & inside).any()):
                    figures[metric, scope] = self._score(scores[both])
        return figures


class Gaps(Measure):
    """The gap between demographics on held-out prompts, for all pairs, each dimension and each pair.

    Args:
        data: a :class:`biaslab.data.prompts.PromptDataModule` with held-out prompts, set up for "predict".
    """

    name, last_token_only = "gaps", True

    def __init__(self, data: Any) -> None:
        super().__init__([data.fingerprint, dict(data.hparams)], held_out_prompts=len(data.prompts))
        self.data = data

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, title: str) -> Tensor:
        """Return both gaps for each prompt, ``[2, pair, word, wording]``."""
        on_device = (send_to_device(batch, model.device) for batch in progress(self.data.batches, title))
        return demographic_gaps(model, on_device, len(self.data.pair_names))

    def figures(self, answers: Tensor) -> Figures:
        """Return the mean gap of each pair, of the pairs of each dimension, and of all pairs."""
        pairs = self.data.pair_names
        dimensions = [name.partition("/")[0] for name in pairs]
        scopes = {OVERALL: list(range(len(pairs)))}
        scopes |= {name: [i for i, own in enumerate(dimensions) if own == name] for name in dict.fromkeys(dimensions)}
        scopes |= {name: [place] for place, name in enumerate(pairs)}
        both = dict(zip(("gap", "log gap"), map(gap_samples, answers), strict=True))
        return {
            (metric, scope): Samples(samples.value[places], samples.resamples[:, places])
            for metric, samples in both.items()
            for scope, places in scopes.items()
        }


class Perplexity(Measure):
    """Perplexity on ordinary sentences (pseudo-perplexity for a masked model).

    Args:
        sentences: the text, one sentence each.
        seeds: maximum number of treatments (seeds) measured per row; None for all.
        bos: what precedes a causal model's sentences; see :func:`biaslab.models.tokens.beginning`.
    """

    name = "perplexity"

    def __init__(self, sentences: Sequence[str], seeds: int | None = None, bos: Bos = "tokenizer") -> None:
        require_ranges({"seeds": seeds})
        self.sentences, self.seeds, self.bos = list(sentences), seeds, bos
        super().__init__([self.sentences, bos], sentences=len(self.sentences))

    def read_by(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Count unknown tokens, which are not scored."""
        if unknown := unknown_tokens(tokenizer, self.sentences)[0]:
            self._facts["unknown_tokens"] = unknown

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, title: str) -> Tensor:
        """Return each sentence's negative log-likelihood and number of tokens, ``[sentence, 2]``."""
        own = ranks.dealt(self.sentences)
        found = [*negative_log_likelihoods(model, tokenizer, own, bos=self.bos)] if own else []
        return torch.stack(ranks.gathered(found))

    def figures(self, answers: Tensor) -> Figures:
        """Return the perplexity, with resamples over sentences."""
        return {("perplexity", OVERALL): perplexity_samples(answers)}


class Templates(Measure):
    """Black-box probing: how often a model judges a woman and a man differently for the same action.

    Args:
        probes: from :func:`biaslab.evaluation.templates.make_probes`.
        wordings: from :func:`biaslab.evaluation.templates.frames`; used as the names of the scopes.
    """

    name, last_token_only = "templates", True

    def __init__(self, probes: Probes, wordings: Sequence[str]) -> None:
        super().__init__([probes.texts, probes.words], texts=len(probes.texts))
        self.probes, self.wordings = probes, wordings

    def ask(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, title: str) -> Tensor:
        """Return the judging words' log-probabilities, ``[wording, action, gender, word]``."""
        return judging_log_probabilities(model, tokenizer, self.probes)

    def answers(self, log_probabilities: Tensor) -> Answers:
        """Return the likeliest words and the negative masses from the result of :meth:`ask`."""
        return answers(log_probabilities, self.probes.negative)

    def tables(self, log_probabilities: Tensor) -> dict[str, Tensor]:
        """Return the metrics' values, in percent, ``[wording, action]``."""
        read = self.answers(log_probabilities)
        return {"biased outputs": read.biased(), "mass difference": read.mass_difference()}

    def figures(self, answers: Tensor) -> Figures:
        """Return the metrics over all wordings and for each one, with resamples over actions."""
        tables = self.tables(answers)
        scopes = {OVERALL: slice(None)} | {name: slice(at, at + 1) for at, name in enumerate(self.wordings)}
        return {
            (metric, scope): template_samples(table[rows])
            for metric, table in tables.items()
            for scope, rows in scopes.items()
        }
