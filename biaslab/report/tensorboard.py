"""What a finished run writes to TensorBoard: scalars, figures, histograms, sample prompts, and its line in HPARAMS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from biaslab.evaluation.findings import OVERALL, Findings
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.parts import STEREOSET
from biaslab.report.plots.gaps import FILE_NAMES, gap_bars, gap_rows
from biaslab.report.plots.neurons import layer_distribution, score_heat_map
from biaslab.report.plots.stereoset import icat_against_lms, icat_before_after
from biaslab.report.sections.shared import figures, lms_and_icat

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

_DOTS_PER_INCH = 80  # the size of an image in TensorBoard, which leaves out pixels of larger ones
_SAMPLES = 5  # prompts of each dimension
_SLOT = "{slot}"  # as the prompts have it

T = TypeVar("T")


class Sample(NamedTuple):
    """A prompt with its ``{slot}``, a pair as ``gender/female-male``, and the probability of each in the slot."""

    text: str
    pair: str
    first: float
    second: float


@torch.no_grad()
def sample_prompts(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], texts: Sequence[str], pair_names: Sequence[str]
) -> list[Sample]:
    """Ask a model about some prompts of each dimension, each about another pair of it.

    Args:
        model: a masked or causal language model of the table, with or without suppressed neurons.
        batches: of :class:`biaslab.data.prompts.PromptDataModule`.
        texts: of its prompts.
        pair_names: of its pairs.
    """
    from biaslab.evaluation.scoring import target_log_probabilities

    of_dimension: dict[int, dict[int, tuple[Mapping[str, Any], int]]] = {}  # number of the first pair -> example
    for batch in batches:
        rows = {example: (batch, row) for row, example in enumerate(batch["example"].tolist())}
        of_dimension.setdefault(int(batch["pair"][0]), {}).update(rows)
    samples = []
    for examples in of_dimension.values():
        for number, example in enumerate(_spread(sorted(examples))):
            batch, row = examples[example]
            place = number % len(batch["pairs"])
            first, second = target_log_probabilities(model, batch)[row, batch["pairs"][place]].exp().tolist()
            samples.append(Sample(texts[example], pair_names[int(batch["pair"][place])], first, second))
    return samples


def log_neurons(writer: SummaryWriter, neurons: NeuronSet, scores: Tensor) -> None:
    """Write how many neurons there are, in which layers, and how the scores are spread.

    Args:
        writer: of the run's folder.
        neurons: of the run; its dimensions' subsets are drawn beside.
        scores: of each neuron, ``[layer, neuron]``.
    """
    writer.add_scalar("neurons", len(neurons))
    for name in ("mean", "worst"):
        writer.add_scalar(f"residual/{name}", neurons.provenance["residual"][name])
    _layer_histogram(writer, neurons.layers())
    sets = {"all": neurons} | {name: subset for name, subset in neurons.subsets.items() if "/" not in name}
    counts = {name: list(subset.layers().values()) for name, subset in sets.items()}
    _figure(writer, "layers", layer_distribution(counts))
    for layer, of in enumerate(scores.float().cpu()):
        writer.add_histogram("scores/a layer a step", of, layer)
    _figure(writer, "scores", score_heat_map(scores.float().cpu().numpy()))


def _layer_histogram(writer: SummaryWriter, counts: Mapping[int, int]) -> None:
    """Write a bin a layer; ``add_histogram`` ends the last one at the largest value, and so draws it too high."""
    writer.add_histogram_raw(
        "neurons/layer",
        min=-0.5,
        max=len(counts) - 0.5,
        num=sum(counts.values()),
        sum=sum(layer * count for layer, count in counts.items()),
        sum_squares=sum(layer**2 * count for layer, count in counts.items()),
        bucket_limits=[layer + 0.5 for layer in counts],
        bucket_counts=list(counts.values()),
    )


def log_prompts(writer: SummaryWriter, prompts: Iterable[Sequence[Any]], words: Mapping[str, Sequence[str]]) -> None:
    """Write some of the prompts of each dimension as a table.

    Args:
        writer: of the run's folder.
        prompts: text with ``{slot}``, dimension and kind of each, and whatever follows.
        words: the demographics of each dimension.
    """
    every = [tuple(prompt[:3]) for prompt in prompts]
    rows = []
    for dimension, demographics in words.items():
        own = [prompt for prompt in every if prompt[1] == dimension]
        for text, _, kind in _spread(own):
            rows.append([_text(text), f"{dimension}, {kind}", ", ".join(demographics)])
    writer.add_text("prompts/found with", _table(["prompt", "dimension, kind", "asked about"], rows))


def log_samples(writer: SummaryWriter, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Write what the model answers to some prompts as a table.

    Args:
        writer: of the run's folder.
        samples: the same prompts of each row ("untouched", "suppressed").
    """
    header = ["prompt", "pair", *(f"{row}: P(d1), P(d2), %" for row in samples)]
    rows = []
    for same in zip(*samples.values(), strict=True):
        answers = [f"{100 * sample.first:.3g}, {100 * sample.second:.3g}" for sample in same]
        rows.append([_text(same[0].text), same[0].pair, *answers])
    writer.add_text("prompts/answers", _table(header, rows))


def log_findings(writer: SummaryWriter, findings: Findings, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Write what a debias run found: figures as scalars and drawn, the samples, and the run's line in HPARAMS.

    Args:
        writer: of the run's folder.
        findings: of the run.
        samples: the same prompts' answers, "untouched" and "suppressed".
    """
    for (row, metric, scope), estimate in findings.estimates.items():
        if metric in STEREOSET.values():
            writer.add_scalar(f"{metric}/{scope}/{row}", estimate.figure.value)
        elif metric == "perplexity":
            writer.add_scalar(f"perplexity/{row}", estimate.figure.value)
    rows = gap_rows(findings)._asdict()
    for metric, name in FILE_NAMES.items():
        for treatment in ("suppressed", "amplified", "random"):
            change = findings.estimates[rows[treatment], metric, OVERALL].change.value
            writer.add_scalar(f"gap/{name}_{treatment}_percent", change)
        _figure(writer, f"gap, {name}", gap_bars(findings, metric))
    icat = figures(findings, "ICAT", findings.scopes("ICAT"))
    _figure(writer, "ICAT before and after", icat_before_after(icat))
    _figure(writer, "ICAT against LMS", icat_against_lms(lms_and_icat(findings)))
    log_samples(writer, samples)
    log_settings(writer, findings.settings, _gist(findings))


def _gist(findings: Findings) -> dict[str, float]:
    """Return what runs are compared by: figures of the first row after the untouched one, under the same names."""
    rows = gap_rows(findings)
    ss, lms, icat, perplexity, suppressed = (
        findings.estimates[rows.suppressed, metric, OVERALL] for metric in ("SS", "LMS", "ICAT", "perplexity", "gap")
    )
    return {
        "run/ICAT": icat.figure.value,
        "run/ICAT change": icat.change.value,
        "run/SS": ss.figure.value,
        "run/LMS": lms.figure.value,
        "run/LMS change": lms.change.value,
        "run/perplexity change, %": perplexity.change.value,
        "run/gap suppressed, %": suppressed.change.value,
        "run/gap amplified, %": findings.estimates[rows.amplified, "gap", OVERALL].change.value,
        "run/neurons": findings.rows[1].size,
    }


def log_settings(writer: SummaryWriter, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write the run's line in HPARAMS: what was set, and what came out.

    All is written into the run's own folder, so that the line bears its name; ``add_hparams`` would make another.

    Args:
        writer: of the run's folder.
        settings: by name; lists are joined.
        metrics: by name; the same ones in every run, since TensorBoard takes the columns from one of them.
    """
    for name, value in metrics.items():
        writer.add_scalar(name, value)
    plain = {name: _plain(value) for name, value in settings.items()}
    for summary in hparams(plain, dict(metrics)):
        writer._get_file_writer().add_summary(summary)


def _plain(value: Any) -> str | float:
    """Return what HPARAMS can show; every setting is there in every run, or its column would be missing."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)


def _figure(writer: SummaryWriter, name: str, figure: Figure) -> None:
    figure.set_dpi(_DOTS_PER_INCH)
    writer.add_figure(f"figures/{name}", figure)  # one group: TensorBoard opens only the first ones


def _spread(items: Sequence[T]) -> Sequence[T]:
    """Return at most five items, from all over."""
    return items[:: max(1, len(items) // _SAMPLES)][:_SAMPLES]


def _text(prompt: str) -> str:
    return prompt.replace(_SLOT, "[slot]").replace("|", r"\|")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
