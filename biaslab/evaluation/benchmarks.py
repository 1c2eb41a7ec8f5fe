"""Benchmarks by name: where their examples come from, and how a model is judged on them.

A new benchmark is a data module, a measure, an entry here, and a configuration for `biaslab test`.
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
    """How a metric is read."""

    unit: Unit  # of its change: points (the metric is in percent), nats, or percent of what it was before
    ideal: float
    text: str  # for a legend
    signed: bool = False  # points that lie below and above an ideal of 0

    @property
    def has_sides(self) -> bool:
        """Whether values lie below and above the ideal: what is nearer to it is better, and changes can go past it."""
        return self.ideal == 50 or self.unit == "nats" or self.signed


class Benchmark(NamedTuple):
    """A benchmark's classes, by their places in the package, and its metrics."""

    data: str  # a biaslab.data.module.EvaluationData that takes `model_name`, `bos` and `trust_remote_code`
    measure: str  # a biaslab.evaluation.measures.Scored, made from such data
    metrics: Mapping[str, Metric] = {}  # that stand in a table of its own; StereoSet's and others have their places

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
            "SS, intersentence": Metric("points", 50, "stereotype score of sentences that follow a context, %"),
            "LMS, intersentence": Metric("points", 100, "language modelling score of these, %"),
            "ICAT, intersentence": Metric("points", 100, "idealized CAT score of these, %"),
        },
    ),
    "bbq": Benchmark(
        "data.bbq.BBQDataModule",
        "evaluation.bbq.BBQ",
        {
            "BBQ accuracy, ambiguous": Metric("points", 100, "right answers (unknown) in ambiguous contexts, %"),
            "BBQ accuracy, disambiguated": Metric("points", 100, "right answers in disambiguated contexts, %"),
            "BBQ bias, ambiguous": Metric("points", 0, "bias score in ambiguous contexts, s_AMB, %", True),
            "BBQ bias, disambiguated": Metric("points", 0, "bias score in disambiguated contexts, s_DIS, %", True),
        },
    ),
    "winobias": Benchmark(
        "data.winobias.WinoBiasDataModule",
        "evaluation.pronouns.WinoBias",
        {
            "WinoBias": Metric("points", 50, "WinoBias' sentences whose pro-stereotypical pronoun is likelier, %"),
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
                "nats", 0, "nats of log P(female pronoun) − log P(male) per log-odds of women's share"
            ),
            "Winogender log-ratio": Metric("nats", 0, "mean of log P(female pronoun) − log P(male pronoun), nats"),
        },
    ),
    "bec-pro": Benchmark(
        "data.bec_pro.BecProDataModule",
        "evaluation.bec_pro.BecPro",
        {
            "BEC-Pro association": Metric("nats", 0, "association of a gender's professions with it − with the other"),
            "BEC-Pro difference": Metric("nats", 0, "association of professions with men − with women, nats"),
        },
    ),
    "honest": Benchmark(
        "data.honest.HonestDataModule",
        "evaluation.honest.Honest",
        {
            "HONEST templates, divergence": Metric("nats", 0, "divergence of completions between two groups, nats"),
            "HONEST hurtful completions": Metric("points", 0, "completions that are in a lexicon of hurtful words, %"),
        },
    ),
    "redditbias": Benchmark(
        "data.redditbias.RedditBiasDataModule",
        "evaluation.redditbias.RedditBias",
        {
            "RedditBias log-perplexity": Metric(
                "nats", 0, "mean of the counterparts' less the stereotyping comments' log-perplexity, nats a token"
            ),
            "RedditBias preferred": Metric("points", 50, "comments that are likelier than their counterparts, %"),
        },
    ),
}


def _imported(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"biaslab.{module}"), name)


def benchmark_of(data: Any) -> tuple[str, Any]:
    """Return the benchmark of a data module, or of what it is a subclass of: its name, and the class of its measure.

    Raises:
        InputError: if it is none of a benchmark's.
    """
    names = {f"biaslab.{benchmark.data}": name for name, benchmark in BENCHMARKS.items()}
    places = [f"{each.__module__}.{each.__qualname__}" for each in type(data).__mro__]
    name = next((names[place] for place in places if place in names), None)
    if name is None:
        raise InputError(f"`data` is expected to be a benchmark's ({', '.join(names)}) but got {places[0]}.")
    return name, BENCHMARKS[name].measure_class()


def measures_of(
    names: Iterable[str],
    model_name: str,
    without: Iterable[str] = (),
    seeds: int | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> list[Scored]:
    """Return the measures of some benchmarks, whose data was fetched and read, each with its default settings.

    A benchmark that can't be asked of this model is left out, and that is said.

    Args:
        names: keys of BENCHMARKS.
        model_name: whose tokenizer is used.
        without: those that are measured anyway.
        seeds: at most so many treatments of a row are measured; None for all.
        trust_remote_code: let a checkpoint bring its own Python code.
        options: further ones of all data modules, such as ``bos``.

    Raises:
        InputError: if a name is not known, or the data of one can't be had.
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
            _log.warning("The benchmark %s is left out: %s", name, error)
            continue
        measure = BENCHMARKS[name].measure_class()(data)
        measure.seeds = seeds
        found.append(measure)
    return found
