"""What lies in the event file of a finished run, read by TensorBoard's own reader."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import NAMES, make_model, wordpiece_tokenizer
from report_runs import debias_findings
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed
from biaslab.report import tensorboard

PAIRS = ["gender/female-male", "religion/islam-christianity"]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SummaryWriter]:
    with SummaryWriter(tmp_path) as writer:
        yield writer


def read(writer: SummaryWriter) -> EventAccumulator:
    writer.close()
    (file,) = Path(writer.log_dir).iterdir()  # no folder of its own for HPARAMS
    events = EventAccumulator(str(file), size_guidance={"histograms": 0, "images": 0})
    events.Reload()
    return events


def text_of(events: EventAccumulator, tag: str) -> str:
    (event,) = events.Tensors(f"{tag}/text_summary")
    return make_ndarray(event.tensor_proto).item().decode()


def scalar(events: EventAccumulator, tag: str) -> float:
    (event,) = events.Scalars(tag)
    return event.value


def images(events: EventAccumulator) -> set[str]:
    return set(events.Tags()["images"])


def neuron_set() -> NeuronSet:
    subsets = {"gender": [(0, 1)], "gender/female-male": [(0, 1)]}
    named = {name: NeuronSet(neurons, shape=(3, 8)) for name, neurons in subsets.items()}
    everything = NeuronSet([(0, 1), (2, 0), (2, 7)], shape=(3, 8))
    return everything.with_details(named, {"residual": {"mean": 0.25, "worst": 0.5}})


def test_neurons(writer):
    scores = torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    tensorboard.log_neurons(writer, neuron_set(), scores)
    events = read(writer)
    assert [scalar(events, tag) for tag in ("neurons", "residual/mean", "residual/worst")] == [3, 0.25, 0.5]
    (histogram,) = [event.histogram_value for event in events.Histograms("neurons/layer")]
    assert (histogram.bucket_limit, histogram.bucket) == ([0.5, 1.5, 2.5], [1, 0, 2])
    assert (histogram.min, histogram.max, histogram.num, histogram.sum, histogram.sum_squares) == (-0.5, 2.5, 3, 4, 8)
    of_layers = events.Histograms("scores/a layer a step")
    assert [event.step for event in of_layers] == [0, 1, 2]
    assert [e.histogram_value.sum for e in of_layers] == pytest.approx(scores.sum(1).tolist())
    assert images(events) == {"figures/layers", "figures/scores"}


def test_no_neurons(writer):
    empty = NeuronSet([], shape=(3, 8)).with_details({}, {"residual": {"mean": 0.0, "worst": 0.0}})
    tensorboard.log_neurons(writer, empty, torch.zeros(3, 8))
    assert scalar(read(writer), "neurons") == 0


def test_prompts(writer):
    prompts = [(f"one|two {{slot}} {n}.", ("gender", "race")[n % 2], "negative", n) for n in range(20)]
    tensorboard.log_prompts(writer, prompts, {"gender": ["female", "male"], "race": ["black", "white"]})
    header, _, *rows = text_of(read(writer), "prompts/found with").splitlines()
    assert header == "| prompt | dimension, kind | demographics |"
    assert len(rows) == 10
    assert rows[1] == r"| one\|two [slot] 4. | gender, negative | female, male |"


def test_sample_prompts():
    tokenizer = wordpiece_tokenizer()
    model, words = make_model("bert", len(tokenizer)), ("female", "male", "black", "white")
    ids = dict(zip(words, tokenizer.convert_tokens_to_ids(list(words)), strict=True))
    texts = [f"the {name} is {{slot}}." for name in NAMES[:6]]

    def batch(examples: list[int], targets: list[str], pairs: list[list[int]], first: int) -> dict:
        encoded = [tokenizer(texts[e].replace("{slot}", "[MASK]"))["input_ids"] for e in examples]
        return {
            "input_ids": torch.tensor(encoded),
            "position": torch.tensor([line.index(tokenizer.mask_token_id) for line in encoded]),
            "target_ids": torch.tensor([[ids[word] for word in targets]] * len(examples)),
            "pairs": torch.tensor(pairs),
            "pair": torch.arange(first, first + len(pairs)),
            "example": torch.tensor(examples),
        }

    pair_names = ["gender/female-male", "race/black-white", "race/white-female"]
    batches = [
        batch([1, 0], ["female", "male"], [[0, 1]], 0),
        batch([2], ["female", "male"], [[0, 1]], 0),
        batch([3, 4, 5], ["black", "white", "female"], [[0, 1], [1, 2]], 1),
    ]
    found = tensorboard.sample_prompts(model, batches, texts, pair_names)
    assert [(s.text, s.pair) for s in found] == [
        (texts[e], pair_names[p]) for e, p in ((0, 0), (1, 0), (2, 0), (3, 1), (4, 2), (5, 1))
    ]
    for sample in found:
        encoded = tokenizer(sample.text.replace("{slot}", "[MASK]"), return_tensors="pt")["input_ids"]
        slot = int((encoded[0] == tokenizer.mask_token_id).nonzero())
        probabilities = model(encoded).logits[0, slot].softmax(-1)
        expected = [float(probabilities[ids[word]]) for word in sample.pair.partition("/")[2].split("-")]
        assert [sample.first, sample.second] == pytest.approx(expected, rel=1e-4)
    with suppressed(model, [(0, 3), (1, 5)]):
        after = tensorboard.sample_prompts(model, batches, texts, pair_names)
    assert [s[:2] for s in after] == [s[:2] for s in found]
    assert [s.first for s in after] != [s.first for s in found]


def test_samples(writer):
    before, after = (
        tensorboard.Sample("It is {slot}.", PAIRS[0], 0.25, 0.01),
        tensorboard.Sample("It is {slot}.", PAIRS[0], 0.1, 2e-5),
    )
    tensorboard.log_samples(writer, {"untouched": [before], "suppressed": [after]})
    assert text_of(read(writer), "prompts/answers").splitlines() == [
        "| prompt | pair | untouched: P(d1), P(d2), % | suppressed: P(d1), P(d2), % |",
        "| --- | --- | --- | --- |",
        "| It is [slot]. | gender/female-male | 25, 1 | 10, 0.002 |",
    ]


def test_a_whole_run(writer):
    sample = tensorboard.Sample("It is {slot}.", PAIRS[0], 0.25, 0.01)
    run = debias_findings()
    tensorboard.log_findings(writer, run, {"untouched": [sample], "suppressed": [sample]})
    events = read(writer)
    stereoset = [key for key in run.estimates if key[1] in ("SS", "LMS", "ICAT")]
    assert len(stereoset) == 4 * 3 * 3  # rows, metrics, scopes
    for row, metric, scope in stereoset:
        figure = run.estimates[row, metric, scope].figure
        assert scalar(events, f"{metric}/{scope}/{row}") == pytest.approx(figure.value)
    texts = [row for row, metric, _ in run.estimates if metric == "perplexity"]
    assert len(texts) == 4
    for row in texts:
        assert scalar(events, f"perplexity/{row}") == pytest.approx(run.get(row, "perplexity").figure.value)
    known = {key: e for key, e in run.estimates.items() if key[1] == "knowledge"}
    assert len(known) == 4 * 3  # rows, scopes
    for (row, _, scope), estimate in known.items():
        assert scalar(events, f"knowledge/{scope}/{row}") == pytest.approx(estimate.figure.value)
    for tag, value in (("suppressed", -80), ("amplified", 160), ("random", 1)):
        assert scalar(events, f"gap/probability_{tag}_percent") == value
    assert scalar(events, "gap/log_probability_suppressed_percent") == -8
    assert images(events) == {
        f"figures/{name}"
        for name in ("gap, probability", "gap, log_probability", "ICAT before and after", "ICAT against LMS")
    }
    assert "It is [slot]." in text_of(events, "prompts/answers")


def test_the_log_ratio_where_it_was_measured(writer):
    run = debias_findings(ratio=(-0.25, 0.1))
    tensorboard.log_findings(writer, run, {"untouched": [], "suppressed": []})
    events = read(writer)
    ratios = {key: estimate for key, estimate in run.estimates.items() if key[1] == "SS log-ratio"}
    assert len(ratios) == 4 * 3  # rows, scopes
    for (row, metric, scope), estimate in ratios.items():
        assert scalar(events, f"{metric}/{scope}/{row}") == pytest.approx(estimate.figure.value)
    assert scalar(events, "run/SS log-ratio") == pytest.approx(0.15)
    assert scalar(events, "run/SS log-ratio change") == pytest.approx(-0.25)


def test_hparams(writer):
    run = debias_findings(factor=0.5, limit=5, trust_remote_code=True)
    tensorboard.log_findings(writer, run, {"untouched": [], "suppressed": []})
    events = read(writer)
    content = {tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.PluginTagToContent("hparams")}
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    shown = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert shown == {
        "model": "tiny", "count": "None", "dimensions": "gender, ethnicity", "factor": 0.5, "limit": 5, "seeds": 2,
        "trust_remote_code": "True", "selection": "guarded", "contrast": "stereoset, bold", "guard_weight": 3,
        "positions": "all",
    }  # fmt: skip
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    values = {metric.name.tag: scalar(events, metric.name.tag) for metric in experiment.metric_infos}
    assert values == pytest.approx({
        "run/ICAT": 76, "run/ICAT change": 6, "run/SS": 55, "run/LMS": 86, "run/LMS change": 2,
        "run/perplexity change, %": 7, "run/gap suppressed, %": -80, "run/gap amplified, %": 160, "run/neurons": 3,
        "run/knowledge change": 4,
    })  # fmt: skip
