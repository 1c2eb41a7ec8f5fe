"""Tables of findings: for the terminal (at most 80 columns wide), Markdown and LaTeX."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from biaslab.evaluation.findings import METRICS, OVERALL, SS_LOG_RATIO, Findings, Row
from biaslab.statistics import Estimate, Interval

STEREOSET = ("SS", "LMS", "ICAT")
COSTS = ("perplexity", "knowledge")
LOG_RATIO_DIGITS = 3
CHANGED = "*"
_METRICS_A_TABLE, _METRIC_WIDTH = 2, 24  # of benchmark tables
_LATEX = str.maketrans({
    **{character: rf"\{character}" for character in "%&_#${}"},
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "×": r"$\times$",
})  # fmt: skip


def new_table(title: str, *columns: str) -> Table:
    """Return an empty, frameless table for the terminal; names wrap if numbers need the room."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = table.show_edge = False
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table


def signed(change: Interval, digits: int = 1) -> str:
    """Return "+value [low, high]"."""
    return f"{change.value:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"


def change_of(findings: Findings, row: Row, metric: str, digits: int = 1) -> str:
    """Return a metric's overall change as :func:`signed` text; empty for the untouched model."""
    return "" if row is findings.base else signed(findings.estimates[row.name, metric, OVERALL].change, digits)


def cell(estimate: Estimate, with_change: bool = False, digits: int = 1) -> str:
    """Return "value [low, high]" and, on further lines, the change and the spread over seeds."""
    value, low, high = (f"{number:.{digits}f}" for number in estimate.figure)
    spread = "" if estimate.spread is None else f"\n± {estimate.spread:.{digits}f} over seeds"
    return f"{value} [{low}, {high}]" + (f"\n{signed(estimate.change, digits)}{spread}" if with_change else "")


def metric_table(findings: Findings, title: str, metrics: Sequence[str] = STEREOSET, with_size: bool = False) -> Table:
    """Return a table of overall metrics, one row per treatment: values and changes with intervals."""
    table = new_table(_with_rule(findings, title), "", *(["n"] if with_size else []), *metrics)
    for row in findings.rows_of(metrics[0]):
        cells = [cell(findings.estimates[row.name, name, OVERALL], row is not findings.base) for name in metrics]
        table.add_row(row.title, *([str(row.size)] if with_size else []), *cells)
    return table


def _with_rule(findings: Findings, title: str) -> str:
    return "\n".join(filter(None, (title, findings.rule.strip())))


def digits_of(metric: str) -> int:
    """Return the number of decimals of a metric."""
    return LOG_RATIO_DIGITS if METRICS[metric].unit == "nats" else 1


def benchmark_tables(findings: Findings, without: Sequence[str] = ()) -> list[Table]:
    """Return tables of the benchmarks other than StereoSet, with at most two metrics each."""
    tables = []
    for benchmark, metrics in findings.by_benchmark().items():
        if benchmark in without:
            continue
        for start in range(0, len(metrics), _METRICS_A_TABLE):
            chosen = metrics[start : start + _METRICS_A_TABLE]
            legend = "\n".join(f"{name}: {METRICS[name].text}; ideal {METRICS[name].ideal:g}" for name in chosen)
            table = new_table(f"Benchmark {benchmark}: value [95 %], change [95 %]\n{legend}", "", *chosen)
            for column in table.columns[1:]:
                column.no_wrap, column.max_width = False, _METRIC_WIDTH
            for row in findings.rows_of(chosen[0]):
                of_row = {name: findings.estimates[row.name, name, OVERALL] for name in chosen}
                cells = [cell(each, row is not findings.base, digits_of(name)) for name, each in of_row.items()]
                table.add_row(row.title, *cells)
            tables.append(table)
    return tables


def stereoset_metrics(findings: Findings) -> list[str]:
    """Return the StereoSet metrics in the findings; results of earlier versions have no log-ratio."""
    return [name for name in ("SS", SS_LOG_RATIO, "LMS", "ICAT") if findings.rows_of(name)]


def log_ratio_table(findings: Findings) -> Table:
    """Return a table of the SS log-ratio and its change: overall with intervals, and by domain."""
    scopes = findings.scopes(SS_LOG_RATIO)[1:]
    title = f"""SS log-ratio in nats (ideal: 0):
mean of log P(stereotype) - log P(anti-stereotype);
value [95 %], change [95 %] ({CHANGED}: excludes 0)"""
    table = new_table(title, "", "overall", *scopes)
    for row in findings.rows_of(SS_LOG_RATIO):
        cells = [cell(findings.estimates[row.name, SS_LOG_RATIO, OVERALL], row is not findings.base, LOG_RATIO_DIGITS)]
        for figure, change, *_ in (findings.estimates[row.name, SS_LOG_RATIO, scope] for scope in scopes):
            mark = CHANGED if change.excludes_zero else " "
            after = "" if row is findings.base else f"\n{change.value:+.{LOG_RATIO_DIGITS}f}{mark}"
            cells.append(f"{figure.value:.{LOG_RATIO_DIGITS}f} {after}")
        table.add_row(row.title, *cells)
    return table


def cost_metrics(findings: Findings) -> list[str]:
    """Return the cost metrics in the findings; knowledge needs a tokenizer with its words."""
    return [metric for metric in COSTS if findings.rows_of(metric)]


def is_of_one_seed(row: Row, estimate: Estimate) -> bool:
    """Return whether only one of a row's seeds was measured."""
    return len(row.treatments) > 1 and estimate.spread is None


def cost_table(findings: Findings, with_size: bool = False) -> Table:
    """Return a table of each treatment's cost: values and changes with intervals, and its size, if wanted."""
    facts, metrics, sizes = findings.facts, cost_metrics(findings), ["size", "s"] if with_size else []
    title = "Cost: value [95 %], change [95 %]"
    title += "\nsize: neurons or trained parameters; s: seconds to find or train" if with_size else ""
    title += f"\nperplexity: on {facts['sentences']} ordinary sentences, change in %"
    if "knowledge" in metrics:
        title += f"\nknowledge: % of {facts['knowledge_sentences']} sentences answered correctly"
    table = new_table(title, "", *sizes, *metrics)
    for row in findings.rows_of("perplexity"):
        cells = [short_count(row.size), f"{row.seconds:.0f}"] if with_size else []
        for metric in metrics:
            estimate = findings.estimates[row.name, metric, OVERALL]
            one_seed = "\none seed" if is_of_one_seed(row, estimate) else ""
            cells.append(cell(estimate, row is not findings.base) + one_seed)
        table.add_row(row.title, *cells)
    return table


def perplexity_table(findings: Findings) -> Table:
    """Return a table of each treatment's number of neurons, perplexity, and change in percent."""
    title = f"Perplexity on {findings.facts['sentences']} ordinary sentences"
    table = new_table(_with_rule(findings, title), "", "n", "value", "change, % [95 %]")
    for row in findings.rows_of("perplexity"):
        estimate = findings.estimates[row.name, "perplexity", OVERALL]
        spread = "" if estimate.spread is None else f" ± {estimate.spread:.1f}"
        change = change_of(findings, row, "perplexity") + spread
        table.add_row(row.title, str(row.size), f"{estimate.figure.value:.2f}", change)
    return table


def short_count(count: int) -> str:
    """Return a number in at most five characters.

    >>> [short_count(n) for n in (0, 184, 99999, 22_700_000, 109_000_000)]
    ['0', '184', '99999', '22.7M', '109M']
    """
    return str(count) if count < 100_000 else f"{count / 1e6:.3g}M"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(markdown(["", "n"], [["a", "1"]]))
    |  | n |
    | --- | --- |
    | a | 1 |
    """
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def latex(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    r"""Return a LaTeX table, which needs the package booktabs.

    >>> print(latex(["50 % of {a_b}^~$\\"], [], "").splitlines()[3])
    50 \% of \{a\_b\}\textasciicircum{}\textasciitilde{}\$\textbackslash{} \\
    """
    first, *body = [" & ".join(text.translate(_LATEX) for text in line) + r" \\" for line in (header, *rows)]
    top = [f"% {caption}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule"]
    return "\n".join([*top, first, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]) + "\n"
