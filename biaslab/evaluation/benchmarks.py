"""Registry of the benchmarks: their data modules, measures and metrics.

To add a benchmark, write a data module and a measure, and add an entry here and a configuration for `biaslab test`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from biaslab.errors import InputError, NotApplicableError, require_all_of
from biaslab.statistics import Unit

if TYPE_CHECKING:
    from biaslab.evaluation.measures import Scored


_log = logging.getLogger(__name__)


class Metric(NamedTuple):
    """Describes a metric: unit of its changes, ideal value and legend.

    Attributes:
        unit: unit of changes: points (for a metric in percent), nats, or percent of the value before.
        ideal: the best value.
        text: the legend.
        signed: whether it is in points, with values below and above an ideal of 0.
    """

    unit: Unit
    ideal: float
    text: str
    signed: bool = False

    @property
    def has_sides(self) -> bool:
        """Whether values can be on both sides of the ideal, so that a change can overshoot it."""
        return self.ideal == 50 or self.unit == "nats" or self.signed


class Benchmark(NamedTuple):
    """A benchmark: its classes, as import paths within biaslab, and its metrics.

    Attributes:
        data: a :class:`biaslab.data.module.EvaluationData` that takes `model_name`, `bos` and `trust_remote_code`.
        measure: a :class:`biaslab.evaluation.measures.Scored` that takes the data module.
        metrics: metrics shown in the benchmark's own table.
    """

    data: str
    measure: str
    metrics: Mapping[str, Metric] = {}

    def data_class(self) -> Any:
        """Import and return the data module's class."""
        return _imported(self.data)

    def measure_class(self) -> Any:
        """Import and return the measure's class."""
        return _imported(self.measure)


PAIRS_LOG_RATIO = "CrowS-Pairs log-ratio"
BENCHMARKS = {
    "stereoset": Benchmark("data.stereoset.StereoSetDataModule", "evaluation.measures.StereoSet"),
    "crows-pairs": Benchmark(
        "data.crows_pairs.CrowsPairsDataModule",
        "evaluation.measures.CrowsPairs",
        {
            "CrowS-Pairs": Metric("points", 50, "CrowS-Pairs score, %"),
            PAIRS_LOG_RATIO: Metric("nats", 0, "mean of log P(more stereotyping) − log P(less stereotyping), nats"),
        },
    ),
    "stereoset-intersentence": Benchmark(
        "data.intersentence.IntersentenceDataModule",
        "evaluation.intersentence.Intersentence",
        {
            "SS, intersentence": Metric("points", 50, "stereotype score of sentences after a context, %"),
            "LMS, intersentence": Metric("points", 100, "language modelling score of sentences after a context, %"),
            "ICAT, intersentence": Metric("points", 100, "idealized CAT score of sentences after a context, %"),
        },
    ),
    "bbq": Benchmark(
        "data.bbq.BBQDataModule",
        "evaluation.bbq.BBQ",
        {
            "BBQ accuracy, ambiguous": Metric("points", 100, "correct answers (unknown) in ambiguous contexts, %"),
            "BBQ accuracy, disambiguated": Metric("points", 100, "correct answers in disambiguated contexts, %"),
            "BBQ bias, ambiguous": Metric("points", 0, "bias score in ambiguous contexts, s_AMB, %", True),
            "BBQ bias, disambiguated": Metric("points", 0, "bias score in disambiguated contexts, s_DIS, %", True),
        },
    ),
    "winobias": Benchmark(
        "data.winobias.WinoBiasDataModule",
        "evaluation.pronouns.WinoBias",
        {
            "WinoBias": Metric("points", 50, "WinoBias sentences whose pro-stereotypical pronoun is likelier, %"),
            "WinoBias log-ratio": Metric(
                "nats", 0, "mean of log P(pro-stereotypical) − log P(anti-stereotypical), nats"
            ),
            "WinoBias female log-ratio": Metric("nats", 0, "mean of log P(female pronoun) − log P(male pronoun), nats"),
        },
    ),
    "winogender": Benchmark(
        "data.winogender.WinogenderDataModule",
        "evaluation.pronouns.Winogender",
        {
            "Winogender correlation": Metric(
                "points", 0, "correlation of log P(female) − log P(male) with log-odds of women's share, × 100", True
            ),
            "Winogender slope": Metric(
                "nats", 0, "slope of log P(female) − log P(male) against the log-odds of women's share, nats"
            ),
            "Winogender log-ratio": Metric("nats", 0, "mean of log P(female pronoun) − log P(male pronoun), nats"),
        },
    ),
    "bec-pro": Benchmark(
        "data.bec_pro.BecProDataModule",
        "evaluation.bec_pro.BecPro",
        {
            "BEC-Pro association": Metric(
                "nats", 0, "association of professions with their stereotypical gender − with the other, nats"
            ),
            "BEC-Pro difference": Metric("nats", 0, "association of professions with men − with women, nats"),
        },
    ),
    "honest": Benchmark(
        "data.honest.HonestDataModule",
        "evaluation.honest.Honest",
        {
            "HONEST templates, divergence": Metric("nats", 0, "divergence of completions between two groups, nats"),
            "HONEST hurtful completions": Metric("points", 0, "completions in a lexicon of hurtful words, %"),
        },
    ),
    "redditbias": Benchmark(
        "data.redditbias.RedditBiasDataModule",
        "evaluation.redditbias.RedditBias",
        {
            "RedditBias log-perplexity": Metric(
                "nats", 0, "mean log-perplexity of the counterparts − of the stereotyping comments, nats per token"
            ),
            "RedditBias preferred": Metric("points", 50, "stereotyping comments likelier than their counterparts, %"),
        },
    ),
}


def _imported(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"biaslab.{module}"), name)


def benchmark_of(data: Any) -> tuple[str, Any]:
    """Return the name of the benchmark that a data module (or a base class of it) belongs to, and its measure class.

    Raises:
        InputError: if the data module belongs to no benchmark.
    """
    names = {f"biaslab.{benchmark.data}": name for name, benchmark in BENCHMARKS.items()}
    places = [f"{each.__module__}.{each.__qualname__}" for each in type(data).__mro__]
    name = next((names[place] for place in places if place in names), None)
    if name is None:
        raise InputError(
            f"`data` is expected to be the data module of a benchmark ({', '.join(names)}) but got {places[0]}."
        )
    return name, BENCHMARKS[name].measure_class()


def measures_of(
    names: Iterable[str],
    model_name: str,
    without: Iterable[str] = (),
    seeds: int | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> list[Scored]:
    """Return the measures of several benchmarks with their default settings, after downloading and reading their data.

    A benchmark that does not apply to this model is skipped with a warning.

    Args:
        names: keys of :data:`BENCHMARKS`.
        model_name: an asset's name, a folder or a hub id, for its tokenizer.
        without: names to skip because they are measured elsewhere.
        seeds: maximum number of treatments (seeds) measured per row; None for all.
        trust_remote_code: allow a checkpoint to run its own Python code.
        options: more options of all data modules, such as ``bos``.

    Raises:
        InputError: if a name is unknown, or data is not available.
    """
    names = list(dict.fromkeys(names))
    if names:
        require_all_of("measures", names, BENCHMARKS)
    found = []
    for name in [name for name in names if name not in without]:
        data = BENCHMARKS[name].data_class()(model_name, trust_remote_code=trust_remote_code, **options)
        data.prepare_data()
        try:
            data.setup("test")
        except NotApplicableError as error:
            _log.warning("Skipping the benchmark %s: %s", name, error)
            continue
        measure = BENCHMARKS[name].measure_class()(data)
        measure.seeds = seeds
        found.append(measure)
    return found
