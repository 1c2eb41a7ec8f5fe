"""The chapters of a debias run and of its neuron cards."""

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.report.plots.gaps import FILE_NAMES, PAPER_AMPLIFIED, PAPER_SUPPRESSED, gap_bars, gap_scopes
from biaslab.report.plots.neurons import layer_distribution, layers_by_dimension, score_heat_map
from biaslab.report.plots.style import Drawing
from biaslab.report.runs import Run
from biaslab.report.sections import shared
from biaslab.report.sections.shared import Cell, Chapter, Section, Table
from biaslab.report.words import between, control_sentence, figure_text, listed, moved, number, signed

_GAPS = {"gap": "the gap |P(d1) − P(d2)|", "log gap": "the log-odds gap |log P(d1) − log P(d2)|"}
_MORE = {"cards": "Neuron cards", "side-effects": "Side effects between dimensions"}
_SELECTIONS = {
    "paper": "by the paper's votes: those with a high score in most wordings of most statements",
    "ranked": "by the largest mean score",
    "balanced": "by how much bias they add or reduce, relative to the cost on ordinary text",
    "fisher": "for the most bias at the least cost on ordinary text (Fisher information)",
    "guarded": "by the largest mean score, minus a penalty for importance on ordinary sentences",
}


def chapter(run: Run) -> Chapter:
    """Return the chapter of a debias run."""
    findings = run.findings["debias"]
    facts, file = findings.facts, run.folder / "neurons.json"
    sentences = f"on {number(facts['sentences'], 0)} ordinary sentences"
    text = "LMS compares fitting with unrelated StereoSet sentences; perplexity is measured on other text."
    paper = (
        "Rows differ in how neurons were selected and in the factor: the result of this run is "
        f"“{findings.rows[1].title}”; “BNS, paper” selects by the paper's votes instead."
    )
    has_paper = any(row.name == "BNS, paper" for row in findings.rows[2:])
    caption = f"StereoSet, {number(facts['clusters'], 0)} clusters"
    costs = shared.cost_table(findings, f"Cost of each row: perplexity {sentences}")
    sections = [
        shared.stereoset_section(findings, "StereoSet", caption, [paper] if has_paper else ()),
        shared.domain_section(findings),
        _held_out(findings),
        shared.cost_section(findings, [text], costs),
        *shared.benchmark_sections(findings),
        _neurons(run),
    ]
    missing = [(what, f"biaslab {command} {file}") for command, what in _MORE.items() if command not in run.findings]
    details = [("attribution", str(facts["attribution"])), ("seconds", number(facts["seconds"], 0))]
    details += [(f"dropped: {pair}", str(why)) for pair, why in facts["dropped"].items()]
    return Chapter(
        f"Suppression in {findings.model}", _question(run), shared.answer(findings, sentences), sections, details,
        shared.tiles(findings), missing,
    )  # fmt: skip


def _question(run: Run) -> str:
    findings = run.findings["debias"]
    settings, facts = findings.settings, findings.facts
    shape = None if run.neurons is None else run.neurons.shape
    count, total = facts["neurons"]["count"], 0 if shape is None else shape[0] * shape[1]
    chosen = _SELECTIONS.get(settings["selection"], f"by {settings['selection']}")
    share = f" of {number(total, 0)} ({number(100 * count / total)} %)" if total else ""
    judged = [
        f"{number(facts['clusters'], 0)} clusters of StereoSet",
        f"{number(facts['held_out_prompts'], 0)} prompts that were not used to find the neurons", "ordinary text",
    ]  # fmt: skip
    if sentences := facts.get("knowledge_sentences"):
        judged.append(f"{number(sentences, 0)} sentences that test knowledge of demographic words")
    return (
        f"Which feed-forward neurons of {findings.model} carry bias of {listed(settings['dimensions'])}, and what "
        f"changes when they are {_how(findings)}? {number(facts['prompts'], 0)} prompts were attributed; {count} "
        f"neurons{share} were selected {chosen}. The model was evaluated before and after on "
        f"{listed(judged)}."
    )


def _held_out(findings: Findings) -> Section:
    text, drawings = [], []
    for metric, name in _GAPS.items():
        text.append(gap_sentence(findings, metric))
        paper = " (dashed: the paper's mean)" if metric == "gap" else ""
        caption = f"Change of {name} with suppressed, amplified and random neurons{paper}"
        drawings.append(Drawing(f"gaps-{FILE_NAMES[metric]}", caption, text[-1], gap_bars, [findings, metric]))
    text.append(
        f"The paper reports {signed(PAPER_SUPPRESSED, 0)} % and {signed(PAPER_AMPLIFIED, 0)} % for |P(d1) − P(d2)|, "
        "with random neurons near 0. Its models, pairs and prompts are different: compare directions, not magnitudes."
    )
    return Section("held-out", "Held-out prompts", text, drawings, folded=[_gap_table(findings)])


def _how(findings: Findings) -> str:
    factor = findings.settings["factor"]
    if findings.settings["selection"] == "balanced":
        times = "" if factor == 0 else f" times {1 - factor:g}"
        return f"suppressed, or strengthened if they reduce bias, each by its strength{times}"
    if findings.settings.get("replacement") == "mean":
        return (
            "set to their means over ordinary text"
            if factor == 0
            else f"scaled to {factor:g} times their distance from the mean"
        )
    return "switched off (multiplied by 0)" if factor == 0 else f"multiplied by {factor:g}"


def _doubled(findings: Findings) -> str:
    return "changed in the opposite direction" if findings.settings["selection"] == "balanced" else "doubled"


def gap_sentence(findings: Findings, metric: str) -> str:
    """Say how a gap on held-out prompts changed, and whether it changed more than with random neurons."""
    rows = gap_rows(findings)
    off, doubled, random = (findings.estimates[row, metric, OVERALL] for row in rows)
    spread = (
        "" if random.spread is None else f" The standard deviation over random seeds is {number(random.spread, 0)} %."
    )
    name = _GAPS[metric] + (
        ", which is not affected when both words become less likely," if metric == "log gap" else ""
    )
    return (
        f"With the neurons {_how(findings)}, {name} {moved(metric, off.change)}; with the neurons "
        f"{_doubled(findings)}, it {moved(metric, doubled.change)}. "
        f"{control_sentence(metric, random, off.beyond_random, rows[2])}{spread}"
    )


def _gap_table(findings: Findings) -> Table:
    rows, factor = (findings.base.name, *gap_rows(findings)), f"{findings.settings['factor']:g}"
    changes = (f"×{factor}, %", "×2, %", f"random ×{factor}, %")
    lines = []
    for scope in gap_scopes(findings):
        cells = []
        for metric in _GAPS:
            base, *changed = (findings.estimates[row, metric, scope] for row in rows)
            cells.append(Cell(figure_text(metric, base)))
            for _, change, spread, _ in changed:
                more = () if spread is None else (f"± {number(spread, 0)}",)
                cells.append(Cell(signed(change.value, 0), (between(change, 0, sign=True), *more)))
        lines.append(("mean of the pairs" if scope == OVERALL else scope, cells))
    prompts = number(findings.facts["held_out_prompts"], 0)
    caption = f"Gap of each pair on {prompts} held-out prompts, with 95 % intervals over judging words and wordings"
    return Table("gaps", caption, ["pair", "gap", *changes, "log-odds gap, nats", *changes], lines)


def _neurons(run: Run) -> Section:
    by_layer = {int(layer): count for layer, count in run.findings["debias"].facts["neurons"]["by_layer"].items()}
    counts = {"all": list(by_layer.values())} if run.neurons is None else layers_by_dimension(run.neurons)
    most, total = max(by_layer, key=lambda layer: by_layer[layer]), sum(by_layer.values())
    share = number(100 * by_layer[most] / max(total, 1), 0)
    text = (
        f"Layer {most} has the most of the {total} neurons ({by_layer[most]}, {share} %). Layers are counted from 0, "
        "next to the embeddings."
    )
    gist = f"All: {', '.join(f'{count} in layer {layer}' for layer, count in by_layer.items())}."
    caption = "Neurons per layer: all suppressed neurons, and those of each dimension"
    drawings = [Drawing("layers", caption, gist, layer_distribution, [counts])]
    if run.scores is not None and run.neurons is not None and run.neurons.shape == run.scores.shape:
        caption = "Largest mean attribution scores of each layer, by rank"
        drawings.append(Drawing("scores", caption, text, score_heat_map, [run.scores]))
    return Section("neurons", "Where the neurons are", [text], drawings)


def cards_chapter(run: Run) -> Chapter:
    """Return the chapter of neuron cards."""
    model, details = run.findings["cards"].model, run.findings["cards"].details
    question = f"Which prompts activate single neurons of {model}, and which words do these neurons promote?"
    answer = [f"The {len(details['cards'])} neurons with the largest mean scores are described."]
    section = Section("cards", "Neuron cards", [details["method"]], cards=details["cards"])
    return Chapter(f"Neurons of {model}", question, answer, [section])
