"""Benchmarks by name: where their examples come from, and how a model is judged on them.

A new benchmark is a data module, a measure, its metrics in :data:`biaslab.evaluation.findings.METRICS`, a line here,
and a configuration for `biaslab test`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from biaslab.errors import require_all_of

if TYPE_CHECKING:
    from biaslab.evaluation.measures import Scored


class Benchmark(NamedTuple):
    """A benchmark's classes, by their places in the package."""

    data: str  # a biaslab.data.module.EvaluationData that takes `model_name`, `bos` and `trust_remote_code`
    measure: str  # a biaslab.evaluation.measures.Scored, made from such data

    def data_class(self) -> Any:
        """Import and return the data module's class."""
        return _imported(self.data)

    def measure_class(self) -> Any:
        """Import and return the measure's class."""
        return _imported(self.measure)


BENCHMARKS = {
    "stereoset": Benchmark("data.stereoset.StereoSetDataModule", "evaluation.measures.StereoSet"),
    "crows-pairs": Benchmark("data.crows_pairs.CrowsPairsDataModule", "evaluation.measures.CrowsPairs"),
    "bbq": Benchmark("data.bbq.BBQDataModule", "evaluation.bbq.BBQ"),
}


def _imported(place: str) -> Any:
    module, _, name = place.rpartition(".")
    return getattr(import_module(f"biaslab.{module}"), name)


def benchmark_of(data: Any) -> tuple[str, Any]:
    """Return a data module's benchmark: its name, and the class of its measure.

    Raises:
        InputError: if it is none of a benchmark's.
    """
    places = {benchmark.data: name for name, benchmark in BENCHMARKS.items()}
    place = f"{type(data).__module__}.{type(data).__name__}".removeprefix("biaslab.")
    require_all_of("data", [place], places)
    return places[place], BENCHMARKS[places[place]].measure_class()


def measures_of(names: Iterable[str], model_name: str, trust_remote_code: bool = False, **options: Any) -> list[Scored]:
    """Return the measures of some benchmarks, whose data was fetched and read, each with its default settings.

    Args:
        names: keys of BENCHMARKS.
        model_name: whose tokenizer is used.
        trust_remote_code: let a checkpoint bring its own Python code.
        options: further ones of all data modules, such as ``bos``.

    Raises:
        InputError: if a name is not known, or the data of one can't be had, or not be asked of this model.
    """
    names = list(dict.fromkeys(names))
    if names:
        require_all_of("measures", names, BENCHMARKS)
    found = []
    for name in names:
        data = BENCHMARKS[name].data_class()(model_name, trust_remote_code=trust_remote_code, **options)
        data.prepare_data()
        data.setup("test")
        found.append(BENCHMARKS[name].measure_class()(data))
    return found
