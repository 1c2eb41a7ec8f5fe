"""The chapter of a debias run: StereoSet, domains, held-out prompts, the price, the neurons and what they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biaslab.evaluation.findings_old import BASE, Estimate, control_row
from biaslab.evaluation.gaps import gap_change
from biaslab.report.parts import (
    OVERALL,
    Cell,
    Chapter,
    Draw,
    Missing,
    Section,
    Table,
    by_domain_gist,
    domain_table,
    domains_of,
    icat_gist,
    perplexity_cell,
    perplexity_estimate,
    stereoset_table,
)
from biaslab.report.plots.gaps import PAPER_AMPLIFIED, PAPER_SUPPRESSED, gap_bars
from biaslab.report.plots.neurons import layer_distribution, score_heat_map
from biaslab.report.plots.stereoset import icat_against_lms, icat_before_after
from biaslab.report.runs import Figures, Run, feed_forward_neurons, figures, interval, mean_score_is_known
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
    "probability": "the gap |P(d1) − P(d2)|",
    "log_probability": "the log-odds gap |log P(d1) − log P(d2)|, which common rarity of both words leaves alone,",
}
_CAPTIONS = {
    "probability": "Change of the gap |P(d1) − P(d2)|, the paper's mean beside",
    "log_probability": "Change of the log-odds gap |log P(d1) − log P(d2)|",
}


def debias_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return all that a debias run tells.

    Args:
        run: with the part "debias".
        key: goes before the keys of all its elements.
        draw: makes the figures.
    """
    content = run.parts["debias"]
    found = figures(content["stereoset"])
    sections = [
        _stereoset(content, found, key, draw),
        _domains(found, key, draw),
        _held_out(content, key, draw),
        _price(content, key),
        _neurons(run, key, draw),
        cards_section(run, key),
        effects_section(run, key, draw),
        _settings(run, key),
    ]
    return Chapter(
        key, f"Suppression in {run.model}", run.place, _asked(run),
        answer(found, content["perplexity"], f"on {number(content['facts']['sentences'], 0)} ordinary sentences"),
        tiles(found, content["perplexity"]), sections,
    )  # fmt: skip


def chosen_row(found: Mapping[str, Any]) -> str:
    """Return the row that the run is about: the first after the untouched model."""
    return list(found)[1]


def answer(found: Figures, text: Mapping[str, Any], of_text: str) -> list[str]:
    """Return the outcome in some sentences, whatever it is.

    Args:
        found: figures of StereoSet: the untouched row, that which it is about, others.
        text: perplexities by row.
        of_text: what they are of, such as "on 100 ordinary sentences".
    """
    row, control = chosen_row(found), control_row(found)
    overall, random_text = found[row][OVERALL], control_row(text)
    return [
        stereotype_sentence(overall["SS"]),
        icat_sentence(overall["ICAT"], found[control][OVERALL]["ICAT"] if control else None, control or ""),
        domain_sentence({domain: found[row][domain]["ICAT"].change for domain in domains_of(found, BASE)}),
        price_sentence(
            overall["LMS"],
            interval(text[row]["change_percent"]) if row in text else None,
            interval(text[random_text]["change_percent"]) if random_text else None,
            of_text,
        ),
    ]


def tiles(found: Figures, text: Mapping[str, Any]) -> list[Tile]:
    """Return the figures that a reader sees first."""
    row = chosen_row(found)
    overall = found[row][OVERALL]
    made = [
        tile("SS", "stereotype score, ideal 50", overall["SS"]),
        tile("LMS", "language, ideal 100", overall["LMS"]),
        tile("ICAT", "both together, ideal 100", overall["ICAT"]),
    ]
    if row in text:
        estimate = perplexity_estimate(text[row])
        made.append(tile("perplexity", "ordinary text, lower is better", estimate, " %", percent=True))
    return made


def _asked(run: Run) -> str:
    content, config = run.parts["debias"], run.config
    count, total = content["neurons"]["count"], feed_forward_neurons(run)
    share = "" if total is None else f" of {number(total, 0)} ({number(100 * count / total)} %)"
    dimensions = listed(config["dimensions"]) if config.get("dimensions") else "demographics"
    factor = config.get("factor", 0.0)
    how = "switched off (multiplied by 0)" if factor == 0 else f"multiplied by {factor:g}"
    return (
        f"Which feed-forward neurons of {run.model} carry bias of {dimensions}, and what changes when they are {how}? "
        f"{number(content['facts']['prompts'], 0)} prompts were attributed; {count} neurons{share} were chosen"
        f"{_selection(config)}. StereoSet's {number(content['facts']['clusters'], 0)} clusters judged the model before "
        f"and after; so did {number(content['facts']['held_out_prompts'], 0)} prompts that were not used to find the "
        "neurons, and ordinary text."
    )


_SELECTIONS = {
    "paper": "by the paper's votes: those whose score is high in most wordings of most statements",
    "ranked": "by the largest mean score",
    "guarded": "by the largest mean score, less what ordinary sentences need the neuron for",
}


def _selection(config: Mapping[str, Any]) -> str:
    return f" {_SELECTIONS[config['selection']]}" if config.get("selection") in _SELECTIONS else ""


def _stereoset(content: Mapping[str, Any], found: Figures, key: str, draw: Draw) -> Section:
    clusters = number(content["facts"]["clusters"], 0)
    names = {row: row for row in found}
    points = {row: (of[OVERALL]["LMS"].figure, of[OVERALL]["ICAT"].figure) for row, of in found.items()}
    caption = "ICAT against LMS with 95 % intervals: upper right is best"
    return Section(
        f"{key}-stereoset",
        "StereoSet",
        [_paper_row(found)] if "BNS, paper" in list(found)[2:] else [],
        [draw("icat-lms", caption, icat_gist(found, BASE, names), icat_against_lms, points)],
        [stereoset_table(f"{key}-overall", f"StereoSet, {clusters} clusters", found, BASE, names)],
    )


def _paper_row(found: Figures) -> str:
    return (
        f"Rows differ in how neurons were chosen and what they were multiplied by: the run is about "
        f"“{chosen_row(found)}”; “BNS, paper” takes the votes of the paper instead."
    )


def _domains(found: Figures, key: str, draw: Draw) -> Section:
    names = {row: row for row in found}
    icat = {row: {domain: of[domain]["ICAT"].figure for domain in domains_of(found, BASE)} for row, of in found.items()}
    caption = "ICAT by domain with 95 % intervals"
    return Section(
        f"{key}-domains",
        "By domain",
        [],
        [draw("domains", caption, by_domain_gist(found, BASE, names), icat_before_after, icat)],
        [domain_table(f"{key}-icat-domains", "ICAT", found, BASE, names)],
        [domain_table(f"{key}-{m.lower()}-domains", m, found, BASE, names) for m in ("SS", "LMS")],
    )


def _held_out(content: Mapping[str, Any], key: str, draw: Draw) -> Section:
    mean = content["gaps"][-1]
    text = [gap_sentence(mean, name, words) for name, words in _GAPS.items()]
    text.append(
        f"The paper reports {signed(PAPER_SUPPRESSED, 0)} % and {signed(PAPER_AMPLIFIED, 0)} % for the first of these, "
        "with random neurons near 0. Those are its models, pairs and prompts: signs compare, sizes need not."
    )
    drawings = [
        draw(
            f"gaps-{field}", f"{caption}, when neurons are switched off, doubled, and for random ones", told,
            gap_bars, content["gaps"], field,
        )
        for (field, caption), told in zip(_CAPTIONS.items(), text, strict=False)
    ]  # fmt: skip
    return Section(f"{key}-held-out", "Held-out prompts", text, drawings, folded=[_gap_table(content, key)])


def _gap_table(content: Mapping[str, Any], key: str) -> Table:
    columns = ["pair"]
    for name in ("gap", "log-odds gap, nats"):
        columns += [name, "×0, %", "×2, %", "random ×0, %"]
    rows = []
    for row in content["gaps"]:
        cells = []
        for field, digits in (("probability", 5), ("log_probability", 2)):
            changes = [_gap_cell(gap_change(row, field, how)) for how in ("suppressed", "amplified")]
            random = f"{signed(row[f'{field}_random_percent'], 0)} ± {number(row[f'{field}_random_spread'], 0)}"
            cells += [Cell(number(row[f"{field}_gap"], digits)), *changes, Cell(random)]
        rows.append((row["pair"], cells))
    prompts = number(content["facts"]["held_out_prompts"], 0)
    caption = f"Each pair on {prompts} held-out prompts, with 95 % intervals over judging words and wordings"
    return Table(f"{key}-gaps", caption, columns, rows)


def _gap_cell(change: Interval) -> Cell:
    return Cell(signed(change.value, 0), (between(change, 0, sign=True),))


def _price(content: Mapping[str, Any], key: str) -> Section:
    rows = [(row, [perplexity_cell(of, row != BASE)]) for row, of in content["perplexity"].items()]
    sentences = number(content["facts"]["sentences"], 0)
    caption = f"Perplexity on {sentences} ordinary sentences, and its change with the 95 % interval"
    text = "LMS asks for sense against nonsense in StereoSet's own sentences; perplexity is of text from elsewhere."
    return Section(
        f"{key}-price", "The price", [text], tables=[Table(f"{key}-text", caption, ["", "perplexity"], rows)]
    )


def _neurons(run: Run, key: str, draw: Draw) -> Section:
    by_layer = {int(layer): count for layer, count in run.parts["debias"]["neurons"]["by_layer"].items()}
    counts = {"all": list(by_layer.values())}
    if run.neurons is not None:
        subsets = {name: subset for name, subset in run.neurons.subsets.items() if "/" not in name}
        counts |= {name: list(subset.layers().values()) for name, subset in subsets.items()}
    most, total = max(by_layer, key=lambda layer: by_layer[layer]), sum(by_layer.values())
    told = ", ".join(f"{count} in layer {layer}" for layer, count in by_layer.items())
    share = number(100 * by_layer[most] / max(total, 1), 0)
    text = (
        f"Of all {total} neurons, layer {most} has the most ({by_layer[most]}, {share} %). Layers count from 0, next "
        "to the embeddings."
    )
    caption = "Neurons a layer: of all that are suppressed, and of each dimension by itself"
    drawings = [draw("layers", caption, f"All: {told}.", layer_distribution, counts)]
    if mean_score_is_known(run):
        caption = "The largest mean attribution scores of each layer, by rank"
        drawings.append(draw("scores", caption, text, score_heat_map, run.scores))
    return Section(f"{key}-neurons", "Where the neurons are", [text], drawings)


def cards_section(run: Run, key: str) -> Section:
    """Return the neuron cards, or which command makes them."""
    title, cards = "What single neurons do", run.parts.get("cards")
    if cards is None:
        return Section(
            f"{key}-cards",
            title,
            missing=Missing("Cards of single neurons", f"biaslab cards {run.folder / 'neurons.json'}"),
        )
    return Section(f"{key}-cards", title, [cards["method"]], cards=cards["cards"])


def _settings(run: Run, key: str) -> Section:
    facts = run.parts["debias"]["facts"]
    found = settings_facts(run.config)
    found += [("attribution", str(facts["attribution"])), ("seconds", number(facts["seconds"], 0))]
    found += [(f"dropped: {pair}", str(why)) for pair, why in facts["dropped"].items()]
    return Section(f"{key}-settings", "Settings", facts=found)


def control_change(found: Figures) -> Interval | None:
    """Return the random controls' change of ICAT."""
    row = control_row(found)
    return None if row is None else found[row][OVERALL]["ICAT"].change


def chosen(found: Figures) -> dict[str, Estimate]:
    """Return the overall figures of the row that the run is about."""
    return found[chosen_row(found)][OVERALL]
