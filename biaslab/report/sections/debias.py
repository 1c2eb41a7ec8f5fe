"""The chapter of a debias run: StereoSet, domains, held-out prompts, the price, the neurons and what they do."""

from __future__ import annotations

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.report.parts import (
    Cell,
    Chapter,
    Draw,
    Section,
    Table,
    domain_drawing,
    icat_drawing,
    metric_table,
    scope_table,
)
from biaslab.report.runs import Run
from biaslab.report.sections.cards import cards_section
from biaslab.report.sections.side_effects import effects_section
from biaslab.report.words import (
    Tile,
    between,
    domain_sentence,
    gap_sentence,
    icat_sentence,
    listed,
    number,
    price_sentence,
    settings_facts,
    signed,
    stereotype_sentence,
    tile,
)
from biaslab.statistics import Interval

_GAPS = {
    "gap": "the gap |P(d1) − P(d2)|",
    "log gap": "the log-odds gap |log P(d1) − log P(d2)|, which does not change where both words become rare alike,",
}
_CAPTIONS = {
    "gap": "Change of the gap |P(d1) − P(d2)|, the paper's mean beside",
    "log gap": "Change of the log-odds gap |log P(d1) − log P(d2)|",
}
_IDEALS = {
    "SS": "stereotype score, ideal 50",
    "LMS": "language, ideal 100",
    "ICAT": "both together, ideal 100",
    "perplexity": "ordinary text, lower is better",
}
_SELECTIONS = {
    "paper": " by the paper's votes: those whose score is high in most wordings of most statements",
    "ranked": " by the largest mean score",
    "guarded": " by the largest mean score, less what ordinary sentences need the neuron for",
}


def debias_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return all that a debias run tells.

    Args:
        run: with the part "debias".
        key: goes before the keys of all its elements.
        draw: makes the plots.
    """
    findings = run.parts["debias"]
    sections = [
        _stereoset(findings, key, draw),
        _domains(findings, key, draw),
        _held_out(findings, key, draw),
        _price(findings, key),
        _neurons(run, key, draw),
        cards_section(run, key),
        effects_section(run, key, draw),
        _settings(findings, key),
    ]
    text = f"on {number(findings.facts['sentences'], 0)} ordinary sentences"
    title = f"Suppression in {run.model}"
    return Chapter(key, title, run.place, _asked(run), answer(findings, text), tiles(findings), sections)


def answer(findings: Findings, text: str) -> list[str]:
    """Return the outcome of the second row in some sentences, whatever it is.

    Args:
        findings: of debias or of a sweep.
        text: what the perplexity is of, such as "on 100 ordinary sentences".
    """
    row = findings.rows[1].name
    control = findings.control(row)
    ss, lms, icat = (findings.estimates[row, metric, OVERALL] for metric in ("SS", "LMS", "ICAT"))
    domains = {name: findings.estimates[row, "ICAT", name].change for name in findings.scopes("ICAT")[1:]}
    random = {} if control is None else {name: findings.get(control.name, name) for name in ("ICAT", "perplexity")}
    return [
        stereotype_sentence(ss),
        icat_sentence(icat, random.get("ICAT"), "" if control is None else control.title),
        domain_sentence(domains),
        price_sentence(lms, findings.get(row, "perplexity"), random.get("perplexity"), text),
    ]


def tiles(findings: Findings) -> list[Tile]:
    """Return the figures that a reader sees first."""
    estimates = {metric: findings.get(findings.rows[1].name, metric) for metric in _IDEALS}
    return [tile(name, _IDEALS[name], estimate) for name, estimate in estimates.items() if estimate is not None]


def _asked(run: Run) -> str:
    findings, settings = run.parts["debias"], run.settings
    facts, shape = findings.facts, None if run.neurons is None else run.neurons.shape
    count = facts["neurons"]["count"]
    total = None if shape is None else shape[0] * shape[1]
    share = "" if total is None else f" of {number(total, 0)} ({number(100 * count / total)} %)"
    dimensions = listed(settings["dimensions"]) if settings.get("dimensions") else "demographics"
    factor = settings.get("factor", 0.0)
    how = "switched off (multiplied by 0)" if factor == 0 else f"multiplied by {factor:g}"
    return (
        f"Which feed-forward neurons of {run.model} carry bias of {dimensions}, and what changes when they are {how}? "
        f"{number(facts['prompts'], 0)} prompts were attributed; {count} neurons{share} were chosen"
        f"{_SELECTIONS.get(settings.get('selection', ''), '')}. The model was judged before and after on StereoSet's "
        f"{number(facts['clusters'], 0)} clusters, on {number(facts['held_out_prompts'], 0)} prompts that were not "
        "used to find the neurons, and on ordinary text."
    )


def _stereoset(findings: Findings, key: str, draw: Draw) -> Section:
    names = [row.name for row in findings.rows_of("ICAT")]
    text = (
        "Rows differ in how neurons were chosen and what they were multiplied by: the run is about "
        f"“{findings.rows[1].title}”; “BNS, paper” takes the votes of the paper instead."
    )
    caption = f"StereoSet, {number(findings.facts['clusters'], 0)} clusters"
    return Section(
        f"{key}-stereoset", "StereoSet", [text] if "BNS, paper" in names[2:] else [],
        [icat_drawing(findings, draw, "ICAT against LMS with 95 % intervals: upper right is best")],
        [metric_table(f"{key}-overall", caption, findings)],
    )  # fmt: skip


def _domains(findings: Findings, key: str, draw: Draw) -> Section:
    rows = [row.name for row in findings.rows_of("ICAT")]
    return Section(
        f"{key}-domains", "By domain", [],
        [domain_drawing(findings, draw, rows, "ICAT by domain with 95 % intervals")],
        [scope_table(f"{key}-icat-domains", "ICAT", findings)],
        [scope_table(f"{key}-{metric.lower()}-domains", metric, findings) for metric in ("SS", "LMS")],
    )  # fmt: skip


def _held_out(findings: Findings, key: str, draw: Draw) -> Section:
    from biaslab.report.plots.gaps import PAPER_AMPLIFIED, PAPER_SUPPRESSED, gap_bars

    text = [gap_sentence(findings, metric, words) for metric, words in _GAPS.items()]
    drawings = [
        draw(f"{metric.replace(' ', '-')}s", f"{caption}, when neurons are suppressed, doubled, and for random ones",
             sentence, gap_bars, findings, metric)
        for (metric, caption), sentence in zip(_CAPTIONS.items(), text, strict=True)
    ]  # fmt: skip
    text.append(
        f"The paper reports {signed(PAPER_SUPPRESSED, 0)} % and {signed(PAPER_AMPLIFIED, 0)} % for the first of these, "
        "with random neurons near 0. Models, pairs and prompts are others: compare directions, not magnitudes."
    )
    return Section(f"{key}-held-out", "Held-out prompts", text, drawings, folded=[_gap_table(findings, key)])


def _gap_table(findings: Findings, key: str) -> Table:
    suppressed, amplified, random = gap_rows(findings)
    times = f"×{findings.settings.get('factor', 0.0):g}"
    columns = ["pair"]
    for name in ("gap", "log-odds gap, nats"):
        columns += [name, f"{times}, %", "×2, %", f"random {times}, %"]
    scopes = [scope for scope in findings.scopes("gap") if "/" in scope]
    rows = []
    for scope in [*scopes, OVERALL]:
        cells = []
        for metric, digits in (("gap", 5), ("log gap", 2)):
            before = findings.estimates[findings.base.name, metric, scope].figure.value
            cells.append(Cell(number(before, digits)))
            for row in (suppressed, amplified, random):
                estimate = findings.get(row, metric, scope)
                cells.append(Cell("n/a") if estimate is None else _gap_cell(estimate.change, estimate.spread))
        rows.append(("mean of the pairs" if scope == OVERALL else scope, cells))
    prompts = number(findings.facts["held_out_prompts"], 0)
    caption = f"Each pair on {prompts} held-out prompts, with 95 % intervals over judging words and wordings"
    return Table(f"{key}-gaps", caption, columns, rows)


def _gap_cell(change: Interval, spread: float | None) -> Cell:
    more = (between(change, 0, sign=True),) if spread is None else (f"± {number(spread, 0)} over seeds",)
    return Cell(signed(change.value, 0), more)


def _price(findings: Findings, key: str) -> Section:
    caption = f"Perplexity on {number(findings.facts['sentences'], 0)} ordinary sentences, and its change"
    text = "LMS compares sense with nonsense in StereoSet's own sentences; perplexity is of text from elsewhere."
    return Section(
        f"{key}-price", "The price", [text], tables=[metric_table(f"{key}-text", caption, findings, ("perplexity",))]
    )


def _neurons(run: Run, key: str, draw: Draw) -> Section:
    from biaslab.report.plots.neurons import layer_distribution, score_heat_map

    by_layer = {int(layer): count for layer, count in run.parts["debias"].facts["neurons"]["by_layer"].items()}
    counts = {"all": list(by_layer.values())}
    if run.neurons is not None:
        subsets = {name: subset for name, subset in run.neurons.subsets.items() if "/" not in name}
        counts |= {name: list(subset.layers().values()) for name, subset in subsets.items()}
    most, total = max(by_layer, key=lambda layer: by_layer[layer]), sum(by_layer.values())
    share = number(100 * by_layer[most] / max(total, 1), 0)
    text = (
        f"Of all {total} neurons, layer {most} has the most ({by_layer[most]}, {share} %). Layers count from 0, next "
        "to the embeddings."
    )
    gist = ", ".join(f"{count} in layer {layer}" for layer, count in by_layer.items())
    caption = "Neurons a layer: of all that are suppressed, and of each dimension by itself"
    drawings = [draw("layers", caption, f"All: {gist}.", layer_distribution, counts)]
    if run.scores is not None:
        caption = "The largest mean attribution scores of each layer, by rank"
        drawings.append(draw("scores", caption, text, score_heat_map, run.scores))
    return Section(f"{key}-neurons", "Where the neurons are", [text], drawings)


def _settings(findings: Findings, key: str) -> Section:
    facts = settings_facts(findings.settings)
    facts += [("attribution", findings.facts["attribution"]), ("seconds", number(findings.facts["seconds"], 0))]
    facts += [(f"dropped: {pair}", str(why)) for pair, why in findings.facts["dropped"].items()]
    return Section(f"{key}-settings", "Settings", facts=facts)
