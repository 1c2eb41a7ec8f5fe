"""The paper's results table for a model: baselines, bias neuron suppression and controls, evaluated alike."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from rich.console import Console

from biaslab.data.presets import Accelerator, Dtype, PresetName
from biaslab.errors import require_all_of, require_ranges
from biaslab.evaluation.findings import METRICS, OVERALL, SS_LOG_RATIO, Findings, Row, write_csv
from biaslab.report.tables import (
    LOG_RATIO_DIGITS,
    STEREOSET,
    benchmark_tables,
    cell,
    change_of,
    cost_metrics,
    cost_table,
    digits_of,
    latex,
    log_ratio_table,
    markdown,
    metric_table,
    new_table,
)
from biaslab.store import Artifacts, write_atomically


def table(
    model: str = "minilm-mlm",
    rows: Sequence[str] | None = None,
    preset: PresetName = "small",
    configs: str = "configs",
    seeds: int = 5,
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    text: str = "bold",
    sentences: int = 500,
    limit: int | None = None,
    stereoset: str | None = None,
    measures: Sequence[str] = (),
    output: str = "runs/table",
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    bos: Literal["tokenizer", "authors"] = "tokenizer",
    trust_remote_code: bool = False,
) -> None:
    """Print the paper's results table for a model, and write it as CSV, JSON, LaTeX and Markdown.

    Neurons, trained weights and results are cached next to the table, under names that depend on all their inputs. Run
    the same command to resume; no row is computed twice.

    Args:
        model: an asset name, a local folder or a hub id.
        rows: any of base, dpce, autodebias, cda, cda_control, union_ig, intersection_ig, union_ig_cut, bns_paper,
            bns_ranked, bns_guarded, bns_fisher, bns_balanced, bns_lms, random_bns, random_fisher, random_balanced,
            random_union_ig; all that apply by default.
        preset: "small" (minutes on two cores), "medium" (68 times as many prompts, with all dimensions and kinds;
            trained rows as in "small") or "paper" (the papers' settings).
        configs: folder of the training configurations.
        seeds: number of random controls.
        factor: multiplier of the neurons' activations; 0 switches them off.
        positions: "all", or "slot" (only the position to predict; masked models only).
        text: text to measure (pseudo-)perplexity on: "bold", "bug", "panda" or a text file.
        sentences: number of sentences of this text.
        limit: use at most this many StereoSet clusters; all by default.
        stereoset: a file in StereoSet's format to use instead of its dev split.
        measures: further benchmarks to evaluate: any of crows-pairs, bbq, winobias, winogender, bec-pro, honest,
            redditbias and stereoset-intersentence.
        output: parent folder of the tables of all models.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        bos: what a causal model's sentences are conditioned on: "tokenizer" (whatever the tokenizer prepends) or
            "authors" (StereoSet's rule: the first token on the start token alone, the others on the sentence).
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = dict(locals())
    require_ranges(settings)
    from biaslab.commands import judging
    from biaslab.commands.machine import start
    from biaslab.commands.rows import TRAINED, Rows, paper_rows
    from biaslab.evaluation.benchmarks import measures_of
    from biaslab.evaluation.evaluate import evaluate, require_judgeable
    from biaslab.evaluation.treatment import Treatment
    from biaslab.models.architectures import architecture
    from biaslab.models.loading import fingerprint

    wanted = checked_rows(rows, seeds)
    machine = start(accelerator, devices, device_map)
    network, tokenizer = machine.load(model, dtype, trust_remote_code)
    masked = architecture(network).masked
    left_out = {name: "needs a masked language model" for name in wanted if name in TRAINED and not masked}
    clusters = judging.stereoset(model, stereoset, trust_remote_code, limit=limit, bos=bos)
    core = [clusters, judging.perplexity(text, sentences, bos=bos), *judging.knowledge(model, trust_remote_code)]
    options: dict[str, Any] = {"without": ["stereoset"], "seeds": judging.SEEDS, "bos": bos}
    asked = [*core, *measures_of(measures, model, trust_remote_code=trust_remote_code, **options)]
    require_judgeable(network, Treatment(factor=factor, positions=positions), asked)
    cache = Artifacts(output, model)
    how = (preset, configs, seeds, factor, positions, bos, trust_remote_code, dtype, machine)
    arms = Rows(cache, model, fingerprint(network), *how)
    console = machine.console()
    console.print(f"biaslab table: {model}, preset {preset}. Results go to {cache.folder}", markup=False)

    def tell(row: Row) -> None:
        console.print(f"{row.title:20}{row.size:>12,}{row.seconds:>8.0f} s", markup=False)

    made = (arms.arm(name) for name in wanted if name not in left_out)
    evaluation = evaluate(network, tokenizer, made, asked, cache, tell)
    if not machine.writes:
        return
    findings = evaluation.findings("table", model, settings, details={"left_out": left_out, "paper": paper_rows(model)})
    findings.save(cache.folder)
    write_csv(cache.folder / "table.csv", list(_lines(findings)))
    cells = _cells(findings)
    write_atomically(cache.folder / "table.md", f"{markdown(*cells)}\n\n{_caption(findings)}\n".encode())
    write_atomically(cache.folder / "table.tex", latex(*cells, _caption(findings)).encode())
    _print(console, findings)
    console.print(f"\nResults written to {cache.folder}: table.csv, table.json, table.tex, table.md.", markup=False)


def checked_rows(rows: Sequence[str] | None, seeds: int) -> list[str]:
    """Return the requested rows, the untouched model first."""
    from biaslab.commands.rows import BASE_ROW, ROWS

    if rows is not None:
        require_all_of("rows", rows, ROWS)
    require_ranges({"seeds": seeds})
    return [row for row in ROWS if rows is None or row in rows or row == BASE_ROW]


def _lines(findings: Findings) -> Iterator[dict[str, Any]]:
    """Yield the lines of the CSV file, with each row's cost and the paper's value."""
    paper = findings.details["paper"]["rows"]
    for line in findings.lines():
        row = findings.row(line["row"])
        figures = paper.get(row.name, {}) if line["scope"] == OVERALL else {}
        yield line | {"size": row.size, "seconds": row.seconds, "paper": figures.get(line["metric"].lower())}


def _print(console: Console, findings: Findings) -> None:
    """Print the tables, at most 80 columns wide."""
    title = f"StereoSet, {findings.facts['clusters']} clusters: value [95 %], change [95 %]"
    console.print(metric_table(findings, title))
    console.print(log_ratio_table(findings))
    console.print(cost_table(findings, with_size=True))
    for table in benchmark_tables(findings):
        console.print(table)
    paper, domains = findings.details["paper"], findings.scopes("ICAT")[1:]
    title = f"ICAT by domain, and its change;\npaper: overall ICAT of {paper['model']} there"
    by_domain = new_table(title, "", *domains, "paper")
    for row in findings.rows:
        of_row = [findings.estimates[row.name, "ICAT", domain] for domain in domains]
        icats = [(estimate.figure.value, estimate.change.value) for estimate in of_row]
        if row.name in paper["rows"]:
            icat, before = (paper["rows"][name]["icat"] for name in (row.name, findings.base.name))
            icats.append((icat, icat - before))
        changes = ["" if row is findings.base else f" {change:+.1f}" for _, change in icats]
        by_domain.add_row(row.title, *(f"{icat:.1f}{change}" for (icat, _), change in zip(icats, changes, strict=True)))
    console.print(by_domain)
    for key, why in findings.details["left_out"].items():
        console.print(f"Left out {key}: {why}", markup=False)


def _cells(findings: Findings) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the Markdown and LaTeX tables."""
    paper, domains, metrics = findings.details["paper"], findings.scopes("ICAT")[1:], cost_metrics(findings)
    further = [metric for metrics in findings.by_benchmark().values() for metric in metrics]
    rows = []
    for row in findings.rows:
        of_row = {name: cell(findings.estimates[row.name, name, OVERALL]) for name in (*STEREOSET, *metrics)}
        figures = [*(of_row[name] for name in STEREOSET), change_of(findings, row, "ICAT")]
        figures.append(cell(findings.estimates[row.name, SS_LOG_RATIO, OVERALL], digits=LOG_RATIO_DIGITS))
        figures.append(change_of(findings, row, SS_LOG_RATIO, LOG_RATIO_DIGITS))
        costs = [text for name in metrics for text in (of_row[name], change_of(findings, row, name))]
        for name in further:
            digits = digits_of(name)
            costs += [cell(findings.estimates[row.name, name, OVERALL], digits=digits)]
            costs += [change_of(findings, row, name, digits)]
        by_domain = [f"{findings.estimates[row.name, 'ICAT', domain].figure.value:.1f}" for domain in domains]
        printed = "/".join(f"{value:.1f}" for value in paper["rows"].get(row.name, {}).values())
        start = [row.title, f"{row.size:,}", f"{row.seconds:.0f}"]
        rows.append([*start, *figures, *by_domain, *costs, printed])
    header = ["", "size", "s", *STEREOSET, "ICAT change", SS_LOG_RATIO, "change, nats"]
    header += [f"ICAT {domain}" for domain in domains]
    for name in (*metrics, *further):
        header += [name, f"change, {METRICS[name].unit.replace('percent', '%')}"]
    return [*header, f"paper, {paper['model']}: SS/LMS/ICAT"], rows


def _caption(findings: Findings) -> str:
    settings, facts = findings.settings, findings.facts
    count = facts.get("knowledge_sentences")
    knowledge = f"knowledge: % of {count} sentences in which the right word is more likely; " if count else ""
    return (
        f"{findings.model}, preset {settings['preset']}; StereoSet, {facts['clusters']} clusters, macro average over "
        f"target terms, 95 % bootstrap intervals over terms, changes paired; SS log-ratio: mean of log P(stereotype) - "
        f"log P(anti-stereotype) in nats, ideal 0; perplexity on {facts['sentences']} sentences of "
        f"{settings['text']}; {knowledge}random rows are means of {settings['seeds']} seeds."
        f"{findings.rule}"
    )
