"""What lies in the event file of a finished run, read by TensorBoard's own reader."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from biaslab.evaluation.findings_old import Estimate
from biaslab.report.results import Outcome, Row
from conftest import NAMES, make_model, wordpiece_tokenizer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray
from torch.utils.tensorboard import SummaryWriter

from biaslab.evaluation.gaps import Gaps
from biaslab.metrics.stereoset import NAMES as METRICS
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed
from biaslab.report import tensorboard as boards
from biaslab.statistics import Interval

PAIRS = ["gender/female-male", "religion/islam-christianity"]
ROWS = ("untouched", "BNS, guarded", "random, 2 seeds")


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
    boards.log_neurons(writer, neuron_set(), scores)
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
    boards.log_neurons(writer, empty, torch.zeros(3, 8))
    assert scalar(read(writer), "neurons") == 0


def test_prompts(writer):
    prompts = [(f"one|two {{slot}} {n}.", ("gender", "race")[n % 2], "negative", n) for n in range(20)]
    boards.log_prompts(writer, prompts, {"gender": ["female", "male"], "race": ["black", "white"]})
    header, _, *rows = text_of(read(writer), "prompts/found with").splitlines()
    assert header == "| prompt | dimension, kind | asked about |"
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
    found = boards.sample_prompts(model, batches, texts, pair_names)
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
        after = boards.sample_prompts(model, batches, texts, pair_names)
    assert [s[:2] for s in after] == [s[:2] for s in found]
    assert [s.first for s in after] != [s.first for s in found]


def test_samples(writer):
    before, after = (
        boards.Sample("It is {slot}.", PAIRS[0], 0.25, 0.01),
        boards.Sample("It is {slot}.", PAIRS[0], 0.1, 2e-5),
    )
    boards.log_samples(writer, {"untouched": [before], "suppressed": [after]})
    assert text_of(read(writer), "prompts/answers").splitlines() == [
        "| prompt | pair | untouched: P(d1), P(d2), % | suppressed: P(d1), P(d2), % |",
        "| --- | --- | --- | --- |",
        "| It is [slot]. | gender/female-male | 25, 1 | 10, 0.002 |",
    ]


def outcome() -> Outcome:
    def estimate(value: float) -> Estimate:
        return Estimate(Interval(value, value - 2, value + 2), Interval(value - 60, value - 61, value - 59), None)

    figures = {
        row: {
            scope: {name: estimate(60 + n + 10 * m) for m, name in enumerate(METRICS)} for scope in ("overall", "race")
        }
        for n, row in enumerate(ROWS)
    }
    gaps = {
        name: Gaps(torch.tensor([[[0.1 * x]], [[0.2 * (x - 0.08)]]]), torch.tensor([[[x]], [[2 * x]]]))
        for name, x in (("s", 0.5), ("a", 10.0))
    }
    before = Gaps(torch.tensor([[[0.1]], [[0.2]]]), torch.tensor([[[1.0]], [[2.0]]]))
    likelihoods = {
        row: [torch.tensor([[10.0 + n, 5.0], [20.0, 9.0]])] for n, row in enumerate((*ROWS[:2], "random, one seed"))
    }
    return Outcome(
        rows={row: Row(row, (neuron_set(),)) for row in ROWS},
        estimates=figures,
        pairs=PAIRS,
        gaps={
            "untouched": [before], "suppressed": [gaps["s"]], "amplified": [gaps["a"]],
            "random": [gaps["s"], gaps["a"]],
        },
        likelihoods=likelihoods,
        neurons=neuron_set(),
        facts={},
    )  # fmt: skip


def test_a_whole_run(writer):
    settings = {"model": "minilm-mlm", "count": None, "dimensions": ("gender", "race"), "factor": 0.0, "limit": 5}
    sample = boards.Sample("It is {slot}.", PAIRS[0], 0.25, 0.01)
    found = outcome()
    found.log(writer, settings, {"untouched": [sample], "suppressed": [sample]})
    events = read(writer)
    for row, scopes in found.estimates.items():
        for scope, of in scopes.items():
            for name in METRICS:
                assert scalar(events, f"{name}/{scope}/{row}") == pytest.approx(of[name].figure.value)
    for row, of_row in found.perplexities().items():
        assert scalar(events, f"perplexity/{row}") == pytest.approx(of_row["value"])
    assert scalar(events, "gap/probability_suppressed_percent") == pytest.approx(-54)
    assert scalar(events, "gap/probability_random_percent") == pytest.approx((-54 + 896) / 2)
    assert images(events) == {
        f"figures/{name}"
        for name in ("gap, probability", "gap, log_probability", "ICAT before and after", "ICAT against LMS")
    }
    assert "It is [slot]." in text_of(events, "prompts/answers")


def test_hparams(writer):
    settings = {
        "model": "minilm-mlm", "count": None, "dimensions": ("gender", "race"), "factor": 0.5, "trust": True, "limit": 5
    }  # fmt: skip
    outcome().log(writer, settings, {"untouched": [], "suppressed": []})
    events = read(writer)
    content = {tag: events.SummaryMetadata(tag).plugin_data.content for tag in events.PluginTagToContent("hparams")}
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    shown = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert shown == {
        "model": "minilm-mlm", "count": "None", "dimensions": "gender, race", "factor": 0.5, "trust": "True", "limit": 5
    }  # fmt: skip
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    names = [metric.name.tag for metric in experiment.metric_infos]
    assert {"run/ICAT", "run/LMS", "run/SS", "run/perplexity change, %", "run/neurons"} < set(names)
    values = {name: scalar(events, name) for name in names}
    figures = outcome().estimates["BNS, guarded"]["overall"]
    assert values["run/ICAT"] == pytest.approx(figures["ICAT"].figure.value)
    assert values["run/ICAT change"] == pytest.approx(figures["ICAT"].change.value)
    assert values["run/gap amplified, %"] == 896
    change = outcome().perplexities()["BNS, guarded"]["change_percent"]["value"]
    assert values["run/perplexity change, %"] == pytest.approx(change)
