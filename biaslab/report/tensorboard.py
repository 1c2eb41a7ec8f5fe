"""TensorBoard logs of a finished run: scalars, figures, histograms, sample prompts and its HPARAMS entry."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter
from transformers import PreTrainedModel

from biaslab.evaluation.findings import OVERALL, SS_LOG_RATIO, Findings, gap_rows
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.plots.gaps import FILE_NAMES, gap_bars
from biaslab.report.plots.neurons import layer_distribution, layers_by_dimension, score_heat_map
from biaslab.report.plots.stereoset import icat_against_lms, icat_before_after
from biaslab.report.sections.shared import figures, lms_and_icat
from biaslab.report.tables import COSTS, STEREOSET, markdown

_DOTS_PER_INCH = 80  # image size in TensorBoard, which drops pixels of larger images
_SAMPLES = 5  # prompts per dimension


class Sample(NamedTuple):
    """A prompt with its ``{slot}``, a pair such as ``gender/female-male``, and both words' probabilities."""

    text: str
    pair: str
    first: float
    second: float


@torch.no_grad()
def sample_prompts(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], texts: Sequence[str], pair_names: Sequence[str]
) -> list[Sample]:
    """Return a model's answers to some prompts of each dimension, each for a different pair.

    ``batches`` are those of :class:`biaslab.data.prompts.PromptDataModule`, ``texts`` those of its prompts.
    """
    from accelerate.utils import send_to_device  # type: ignore[import-untyped]

    of_dimension: dict[int, dict[int, tuple[Mapping[str, Any], int]]] = {}  # index of the first pair -> example
    for batch in batches:
        rows = {example: (batch, row) for row, example in enumerate(batch["example"].tolist())}
        of_dimension.setdefault(int(batch["pair"][0]), {}).update(rows)
    samples = []
    for examples in of_dimension.values():
        for number, example in enumerate(_spread(sorted(examples))):
            batch, row = examples[example]
            place = number % len(batch["pairs"])
            answers = target_log_probabilities(model, send_to_device(batch, model.device))
            first, second = answers[row, batch["pairs"][place].to(answers.device)].exp().tolist()
            samples.append(Sample(texts[example], pair_names[int(batch["pair"][place])], first, second))
    return samples


def log_neurons(writer: SummaryWriter, neurons: NeuronSet, scores: Tensor) -> None:
    """Log the number of neurons, their layers, and the distribution of scores, ``[layer, neuron]``."""
    writer.add_scalar("neurons", len(neurons))
    for name in ("mean", "worst"):
        writer.add_scalar(f"residual/{name}", neurons.provenance["residual"][name])
    counts = neurons.layers()
    writer.add_histogram_raw(  # a bin per layer; add_histogram makes the last bin too narrow, hence too high
        "neurons/layer", min=-0.5, max=len(counts) - 0.5, num=len(neurons), sum=sum(layer for layer, _ in neurons),
        sum_squares=sum(layer**2 for layer, _ in neurons), bucket_limits=[layer + 0.5 for layer in counts],
        bucket_counts=list(counts.values()),
    )  # fmt: skip
    _figure(writer, "layers", layer_distribution(layers_by_dimension(neurons)))
    for layer, of_layer in enumerate(scores := scores.float().cpu()):
        writer.add_histogram("scores/a layer a step", of_layer, layer)
    _figure(writer, "scores", score_heat_map(scores.numpy()))


def log_prompts(writer: SummaryWriter, prompts: Iterable[Sequence[Any]], words: Mapping[str, Sequence[str]]) -> None:
    """Log a table of some prompts (text with ``{slot}``, dimension, kind, …) of each dimension."""
    every, rows = [tuple(prompt[:3]) for prompt in prompts], []
    for dimension, demographics in words.items():
        for text, _, kind in _spread([prompt for prompt in every if prompt[1] == dimension]):
            rows.append([_text(text), f"{dimension}, {kind}", ", ".join(demographics)])
    writer.add_text("prompts/found with", markdown(["prompt", "dimension, kind", "demographics"], rows))


def log_samples(writer: SummaryWriter, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Log a table of the answers to the same prompts in each row ("untouched", "suppressed")."""
    rows = []
    for same in zip(*samples.values(), strict=True):
        answers = [f"{100 * sample.first:.3g}, {100 * sample.second:.3g}" for sample in same]
        rows.append([_text(same[0].text), same[0].pair, *answers])
    header = ["prompt", "pair", *(f"{row}: P(d1), P(d2), %" for row in samples)]
    writer.add_text("prompts/answers", markdown(header, rows))


def log_findings(writer: SummaryWriter, findings: Findings, samples: Mapping[str, Sequence[Sample]]) -> None:
    """Log the findings of a debias run: scalars, figures, :func:`log_samples` and the HPARAMS entry."""
    further = [metric for metrics in findings.by_benchmark().values() for metric in metrics]
    for (row, metric, scope), estimate in findings.estimates.items():
        if metric in (*STEREOSET, SS_LOG_RATIO, *COSTS, *further):
            tag = f"{metric}/{row}" if metric == "perplexity" else f"{metric}/{scope}/{row}"
            writer.add_scalar(tag, estimate.figure.value)
    for metric, name in FILE_NAMES.items():
        for treatment, row in zip(("suppressed", "amplified", "random"), gap_rows(findings), strict=True):
            change = findings.estimates[row, metric, OVERALL].change.value
            writer.add_scalar(f"gap/{name}_{treatment}_percent", change)
        _figure(writer, f"gap, {name}", gap_bars(findings, metric))
    _figure(writer, "ICAT before and after", icat_before_after(figures(findings, "ICAT", findings.scopes("ICAT"))))
    _figure(writer, "ICAT against LMS", icat_against_lms(lms_and_icat(findings)))
    log_samples(writer, samples)
    for name, value in (gist := _gist(findings)).items():
        writer.add_scalar(name, value)
    settings = {name: _plain(value) for name, value in findings.settings.items()}
    for summary in hparams(settings, gist):  # into the run's own folder: add_hparams would create another
        writer._get_file_writer().add_summary(summary)


def _gist(findings: Findings) -> dict[str, float]:
    """Return the figures that compare runs: those of the first row after the untouched one, under fixed names."""
    row, amplified, _ = gap_rows(findings)
    ss, lms, icat, perplexity, gap = (
        findings.estimates[row, metric, OVERALL] for metric in (*STEREOSET, "perplexity", "gap")
    )
    knowledge = findings.get(row, "knowledge")
    more = {} if knowledge is None else {"run/knowledge change": knowledge.change.value}
    if (ratio := findings.get(row, SS_LOG_RATIO)) is not None:
        more |= {"run/SS log-ratio": ratio.figure.value, "run/SS log-ratio change": ratio.change.value}
    return {
        "run/ICAT": icat.figure.value, "run/ICAT change": icat.change.value, "run/SS": ss.figure.value,
        "run/LMS": lms.figure.value, "run/LMS change": lms.change.value,
        "run/perplexity change, %": perplexity.change.value, "run/gap suppressed, %": gap.change.value,
        "run/gap amplified, %": findings.estimates[amplified, "gap", OVERALL].change.value,
        "run/neurons": findings.rows[1].size, **more,
    }  # fmt: skip


def _plain(value: Any) -> str | float:
    """Return a value that HPARAMS can show; each run needs every setting, or its column would be missing."""
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if isinstance(value, (int, float, str)) and not isinstance(value, bool) else str(value)


def _figure(writer: SummaryWriter, name: str, figure: Figure) -> None:
    figure.set_dpi(_DOTS_PER_INCH)
    writer.add_figure(f"figures/{name}", figure)  # one group: TensorBoard expands only the first groups


def _spread(items: Sequence[Any]) -> Sequence[Any]:
    return items[:: max(1, len(items) // _SAMPLES)][:_SAMPLES]  # evenly spaced


def _text(prompt: str) -> str:
    return prompt.replace("{slot}", "[slot]").replace("|", r"\|")
