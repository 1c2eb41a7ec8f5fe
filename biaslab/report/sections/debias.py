"""The chapters of a debias run, and of the cards that tell what its neurons respond to and which words they promote."""

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.report.plots.gaps import FILE_NAMES, PAPER_AMPLIFIED, PAPER_SUPPRESSED, gap_bars, gap_scopes
from biaslab.report.plots.neurons import layer_distribution, layers_by_dimension, score_heat_map
from biaslab.report.plots.style import Drawing
from biaslab.report.runs import Run
from biaslab.report.sections import shared
from biaslab.report.sections.shared import Cell, Chapter, Section, Table
from biaslab.report.words import between, control_sentence, figure_text, listed, moved, number, signed

_GAPS = {"gap": "the gap |P(d1) − P(d2)|", "log gap": "the log-odds gap |log P(d1) − log P(d2)|"}
_MORE = {"cards": "Cards of single neurons", "side-effects": "What one dimension's neurons do to others"}
_SELECTIONS = {
    "paper": "by the paper's votes: those whose score is high in most wordings of most statements",
    "ranked": "by the largest mean score",
    "balanced": "by how much bias they carry, or hold back, for what ordinary text loses; each by its own measure",
    "fisher": "for the most bias carried at the least loss to ordinary text (Fisher information)",
    "guarded": "by the largest mean score, less what ordinary sentences need the neuron for",
}


def chapter(run: Run) -> Chapter:
    """Return what a debias run found."""
    findings = run.findings["debias"]
    facts, file = findings.facts, run.folder / "neurons.json"
    sentences = f"on {number(facts['sentences'], 0)} ordinary sentences"
    text = "LMS tests sense against nonsense in StereoSet's own sentences; perplexity is of text from elsewhere."
    paper = (
        "Rows differ in how neurons were chosen and what they were multiplied by: this run is about "
        f"“{findings.rows[1].title}”; “BNS, paper” takes the votes of the paper instead."
    )
    has_paper = any(row.name == "BNS, paper" for row in findings.rows[2:])
    caption = f"StereoSet, {number(facts['clusters'], 0)} clusters"
    costs = shared.cost_table(findings, f"What each row costs: perplexity is {sentences}")
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
    chosen = _SELECTIONS.get(settings["selection"], f"by the rule {settings['selection']}")
    share = f" of {number(total, 0)} ({number(100 * count / total)} %)" if total else ""
    judged = [
        f"StereoSet's {number(facts['clusters'], 0)} clusters",
        f"{number(facts['held_out_prompts'], 0)} prompts that were not used to find the neurons", "ordinary text",
    ]  # fmt: skip
    if sentences := facts.get("knowledge_sentences"):
        judged.append(f"{number(sentences, 0)} sentences that ask for knowledge of demographic words")
    return (
        f"Which feed-forward neurons of {findings.model} carry bias of {listed(settings['dimensions'])}, and what "
        f"changes when they are {_how(findings)}? {number(facts['prompts'], 0)} prompts were attributed; {count} "
        f"neurons{share} were chosen {chosen}. The model was judged before and after on "
        f"{listed(judged)}."
    )


def _held_out(findings: Findings) -> Section:
    text, drawings = [], []
    for metric, name in _GAPS.items():
        text.append(gap_sentence(findings, metric))
        paper = ", with the paper's mean" if metric == "gap" else ""
        caption = f"Change of {name}{paper}: neurons {_how(findings)}, {_doubled(findings)}, and random ones"
        drawings.append(Drawing(f"gaps-{FILE_NAMES[metric]}", caption, text[-1], gap_bars, [findings, metric]))
    text.append(
        f"The paper reports {signed(PAPER_SUPPRESSED, 0)} % and {signed(PAPER_AMPLIFIED, 0)} % for the first of these, "
        "with random neurons near 0. Its models, pairs and prompts are different: compare directions, not magnitudes."
    )
    return Section("held-out", "Held-out prompts", text, drawings, folded=[_gap_table(findings)])


def _how(findings: Findings) -> str:
    factor = findings.settings["factor"]
    if findings.settings["selection"] == "balanced":
        times = "" if factor == 0 else f" times {1 - factor:g}"
        return f"suppressed, or strengthened where they hold against bias, each by its strength{times}"
    if findings.settings.get("replacement") == "mean":
        return "set to their means over ordinary text" if factor == 0 else f"moved to {factor:g} × from their means"
    return "switched off (multiplied by 0)" if factor == 0 else f"multiplied by {factor:g}"


def _doubled(findings: Findings) -> str:
    return "moved the other way" if findings.settings["selection"] == "balanced" else "doubled"


def gap_sentence(findings: Findings, metric: str) -> str:
    """Say how far a gap on held-out prompts moved, and whether that is more than with random neurons."""
    rows = gap_rows(findings)
    off, doubled, random = (findings.estimates[row, metric, OVERALL] for row in rows)
    spread = "" if random.spread is None else f" Over the seeds, it varies by ± {number(random.spread, 0)} %."
    name = _GAPS[metric] + (", which is not affected when both words become rare," if metric == "log gap" else "")
    return (
        f"With the neurons {_how(findings)}, {name} {moved(metric, off.change)}; with them {_doubled(findings)}, it "
        f"{moved(metric, doubled.change)}. {control_sentence(metric, random, off.beyond_random, rows[2])}{spread}"
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
    caption = f"Each pair on {prompts} held-out prompts, with 95 % intervals over judging words and wordings"
    return Table("gaps", caption, ["pair", "gap", *changes, "log-odds gap, nats", *changes], lines)


def _neurons(run: Run) -> Section:
    by_layer = {int(layer): count for layer, count in run.findings["debias"].facts["neurons"]["by_layer"].items()}
    counts = {"all": list(by_layer.values())} if run.neurons is None else layers_by_dimension(run.neurons)
    most, total = max(by_layer, key=lambda layer: by_layer[layer]), sum(by_layer.values())
    share = number(100 * by_layer[most] / max(total, 1), 0)
    text = (
        f"Of all {total} neurons, layer {most} has the most ({by_layer[most]}, {share} %). Layers count from 0, next "
        "to the embeddings."
    )
    gist = f"All: {', '.join(f'{count} in layer {layer}' for layer, count in by_layer.items())}."
    caption = "Neurons a layer: of all that are suppressed, and of each dimension by itself"
    drawings = [Drawing("layers", caption, gist, layer_distribution, [counts])]
    if run.scores is not None and run.neurons is not None and run.neurons.shape == run.scores.shape:
        caption = "The largest mean attribution scores of each layer, by rank"
        drawings.append(Drawing("scores", caption, text, score_heat_map, [run.scores]))
    return Section("neurons", "Where the neurons are", [text], drawings)


def cards_chapter(run: Run) -> Chapter:
    """Return the cards of single neurons."""
    model, details = run.findings["cards"].model, run.findings["cards"].details
    question = f"Which prompts excite single neurons of {model}, and which words do they promote?"
    answer = [f"{len(details['cards'])} neurons are described, those with the largest mean scores."]
    section = Section("cards", "What single neurons do", [details["method"]], cards=details["cards"])
    return Chapter(f"Neurons of {model}", question, answer, [section])
