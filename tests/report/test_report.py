"""The report: what it says of any outcome, and a page that is whole, offline and readable by everyone."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import report_runs as made
import torch
from conftest import main
from matplotlib.figure import Figure
from safetensors.torch import save_file

from biaslab.commands.debias import debias
from biaslab.commands.report import joined, report
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.report.about import command_line, limits, sources
from biaslab.report.page import side_by_side
from biaslab.report.plots.style import inline
from biaslab.report.runs import read_runs
from biaslab.report.sections import compare as compare_section
from biaslab.report.sections import debias as debias_section
from biaslab.report.sections import shared
from biaslab.report.sections.compare import compare_answer
from biaslab.report.sections.debias import gap_sentence
from biaslab.report.sections.probe import probe_answer
from biaslab.report.sections.shared import answer
from biaslab.report.sections.table import table_answer
from biaslab.report.words import kept_together, stereotype_sentence, verdict
from biaslab.statistics import Estimate, Interval, is_significant

CSS = Path(__file__).parents[2] / "biaslab/report/templates/report.css"
VOID = {"meta", "br", "link", "img", "input", "hr", "wbr"}
FIGURES = 7 + 2 + 2 + 1  # of the page's debias run, table, sweep and comparison


class Element:
    def __init__(self, tag: str, attributes: dict[str, str], parent: Element | None) -> None:
        self.tag, self.attributes, self.parent, self.text = tag, attributes, parent, ""
        self.children: list[Element] = []

    def all(self, *tags: str) -> list[Element]:
        below = [found for child in self.children for found in child.all(*tags)]
        return ([self] if not tags or self.tag in tags else []) + below

    def words(self) -> str:
        return " ".join([self.text, *(child.words() for child in self.children)])


class Tree(HTMLParser):
    """A tree of a page, which must close what it opens."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.root = self.at = Element("", {}, None)
        self.feed(page)
        assert self.at is self.root, f"{self.at.tag} is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(Element(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"{self.at.tag} is closed by {tag}"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of runs of each kind."""
    place = tmp_path_factory.mktemp("runs")
    run = made.debias(place / "debias/version_0", model="<i>tiny</i>", ratio=(-0.25, 0.125))
    made.cards(made.effects(run, ratio=(-0.3, 0.1)))
    runs = [
        run, made.table(place / "table/tiny"), made.comparison(place / "c"), made.probe(place / "p"),
        made.sweep(place / "s"),
    ]  # fmt: skip
    report([str(folder) for folder in runs], str(place / "out"))
    return place / "out"


@pytest.fixture(scope="module")
def html(written: Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tree(html: str) -> Element:
    return Tree(html).root


def findings_of(folder: Path) -> Findings:
    """The one findings of a folder."""
    (run,) = read_runs([str(folder)])
    (findings,) = run.findings.values()
    return findings


def test_it_is_one_page_without_a_network(html, tree, written):
    assert not tree.all("script", "link", "img", "iframe", "object", "base", "video")
    for element in tree.all():
        for name, value in element.attributes.items():
            if re.match(r"(https?:)?//", value):
                assert (element.tag, name) == ("a", "href")
            if name in ("src", "href", "xlink:href", "data") and element.tag != "a":
                assert value.startswith(("#", "data:image/png;base64,")), value
            assert not name.startswith("on")
    assert "url(http" not in html
    assert "@import" not in html
    assert "xmlns" not in html
    assert len(html.encode()) < 2_000_000
    names = {path.name for path in (written / "figures").iterdir()}
    assert {Path(name).suffix for name in names} == {".svg", ".pdf"}
    assert len(names) == 2 * FIGURES
    assert all(len(path.read_bytes()) > 1000 for path in (written / "figures").iterdir())


def test_it_can_be_found_one_s_way_in(tree):
    (page,) = tree.all("html")
    assert page.attributes["lang"] == "en"
    assert [len(tree.all(tag)) for tag in ("h1", "main", "nav", "header", "footer", "head")] == [1] * 6
    assert len(tree.all("head")[0].all("title")) == 1
    levels = [int(heading.tag[1]) for heading in tree.all("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [element.attributes["id"] for element in tree.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in tree.all():
        for reference in element.attributes.get("aria-labelledby", "").split():
            assert reference in ids
        for name in ("href", "xlink:href"):
            if element.attributes.get(name, "").startswith("#"):
                assert element.attributes[name][1:] in ids
        for reference in re.findall(r"url\(#([^)]+)\)", " ".join(element.attributes.values())):
            assert reference in ids
    first = tree.all("a")[0]
    assert first.attributes == {"class": "skip", "href": "#answer"}
    for element in tree.all("section"):
        assert "aria-labelledby" in element.attributes


def test_tables_and_figures_are_told_to_those_who_do_not_see_them(tree):
    tables = tree.all("table")
    assert len(tables) > 10
    for table in tables:
        assert table.all("caption")[0].words().strip()
        assert all(head.attributes["scope"] in ("row", "col") for head in table.all("th"))
        widths = {len(row.children) for row in table.all("tr")}
        assert len(widths) == 1
        assert table.parent.attributes["tabindex"] == "0"  # it scrolls by the keyboard
    drawings = tree.all("svg")
    assert len(drawings) == FIGURES
    for svg in drawings:
        assert svg.attributes["role"] == "img"
        title, description = svg.all("title")[0], svg.all("desc")[0]
        named = svg.attributes["aria-labelledby"].split()
        assert named == [title.attributes["id"], description.attributes["id"]]
        assert re.search(r"\d", description.text)  # the numbers' gist
        attributes = str([element.attributes for element in svg.all()])
        assert "currentColor" in attributes
        assert "#000000" not in attributes  # which no one would see on a dark page


def test_each_part_is_there_and_its_numbers(tree):
    text = kept(tree.words())
    for words in (
        "SS", "58.0", "55.0 [52.0, 58.0]", "−3.0 [−4.0, −2.0]", "better", "± 0.4 over seeds", "+7.0 % [+6.0, +8.0]",
        "−23 % and +29 %", "Layer 1, neuron 7", "2 more neurons", "The <kind> one is [MASK]. −1.50", "woman +0.50",
        "The change of ICAT is significant in 1 of 2 own domains and in 1 of 2 other domains.", "CrowS-Pairs score",
        "f00d", "biaslab debias --model '<i>tiny</i>' --selection guarded --contrast '[stereoset, bold]'",
        "biaslab compare a.json b.json --preset small", "biaslab side-effects n.json", "CC BY-SA 4.0", "1,200",
        "needs a masked language model", "They share 2", "81.8", "+6.6", "guarded-5", "'a': not one known token",
        "* 95 % interval excludes 0", "framed: the domain of the row's own neurons",
        "Knowledge: in 150 sentences, a demographic word follows", "79.0 [76.0, 82.0]", "+4.0 [+2.0, +6.0]",
        "± 0.6 over seeds", "Knowledge by dimension, in percent", "150 sentences that test knowledge",
        "SS log-ratio (ideal 0)", "0.400 [0.250, 0.550]", "−0.250 [−0.375, −0.125]", "SS log-ratio by domain, in nats",
        "± 0.012 over seeds",
        "stereotype preference, nats, ideal 0", "0.400 → 0.150",
        "The log-ratio, the strength of the preference for stereotypes (0 is ideal), went from 0.400 to 0.150 nats: it "
        "fell by 0.250 nats [0.125, 0.375].",
        "CrowS-Pairs log-ratio (ideal 0) by category, in nats", "0.100 [−0.050, 0.250]", "−0.300 [−0.400, −0.200]",
    ):  # fmt: skip
        assert words in text, words


def kept(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_text_is_escaped(html):
    assert "<i>tiny" not in html
    assert "&lt;i&gt;tiny&lt;/i&gt;" in html


def test_the_same_runs_give_the_same_page(written, html, tmp_path):
    again = made.debias(tmp_path / "a/version_0")
    for output in ("x", "y"):
        report([str(again)], str(tmp_path / output))
    pages = [(tmp_path / output / "report.html").read_bytes() for output in ("x", "y")]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("outcome", "percent", "wanted", "unwanted"),
    [
        (
            made.GOOD, -7.0,
            ["closer to 50", "from 70.0 to 76.0: it rose by 6.0 points [4.0, 8.0].",
             "change it by +0.1 [−0.4, +0.6]; the difference from them, +5.9 [+3.9, +7.9], is significant.",
             "ICAT rose for gender and race", "LMS (100 is ideal) rose by 2.0", "fell by 7.0 % [6.0, 8.0]",
             "knowledge of words (100 is ideal) rose by 4.0 points [2.0, 6.0] (random neurons: "
             "−0.5 [−2.0, +1.0])."],
            ["farther", "not significant"],
        ),
        (
            made.BAD, 7.0,
            ["farther from 50", "from 70.0 to 64.0: it fell by 6.0 points [4.0, 8.0].",
             "the difference from them, −6.1 [−8.1, −4.1], is significant.",
             "ICAT fell for gender and race", "LMS (100 is ideal) fell by 2.0", "rose by 7.0 % [6.0, 8.0]",
             "knowledge of words (100 is ideal) fell by 4.0 points [2.0, 6.0]"],
            ["closer", "not significant"],
        ),
        (
            made.NONE, 0.5,
            ["a change of +1.0 [−1.0, +3.0]: not significant (95 % CI includes 0)", "went from 70.0 to 70.5",
             "the difference from them, +0.4 [−1.6, +2.4], is not significant (95 % CI includes 0).",
             "the change is not significant for gender and race",
             "changed by −0.5 [−1.5, +0.5], not significant (95 % CI includes 0)",
             "knowledge of words (100 is ideal) changed by −1.0 [−3.0, +1.0], not significant (95 % CI includes 0)"],
            ["closer", "farther", "rose", "fell"],
        ),
        (made.PAST, 0.0, ["it is now on the other side of 50, closer to it than before"], ["farther"]),
    ],
)  # fmt: skip
def test_the_answer_holds_whatever_comes_out(outcome, percent, wanted, unwanted):
    found = answer(made.debias_findings(outcome, percent), "on 9 sentences")
    assert len(found) == 4
    text = " ".join(found)
    assert all(words in text for words in wanted), text
    assert not any(words in text for words in unwanted), text


@pytest.mark.parametrize(
    ("metric", "before", "after", "half", "wanted"),
    [
        ("SS", 58, 55, 1, "better"), ("SS", 42, 45, 1, "better"), ("SS", 58, 60, 1, "worse"),
        ("SS", 42, 40, 1, "worse"),
        ("SS", 58, 55, 4, "unclear"), ("SS", 52, 47, 1, "past"), ("CrowS-Pairs", 60, 52, 1, "better"),
        ("LMS", 80, 82, 1, "better"), ("LMS", 80, 78, 1, "worse"), ("ICAT", 70, 69, 2, "unclear"),
        ("perplexity", 40, 42, 1, "worse"), ("perplexity", 40, 38, 1, "better"),
        ("knowledge", 75, 71, 1, "worse"), ("knowledge", 75, 71, 5, "unclear"), ("SS", float("nan"), 50, 1, ""),
        ("SS log-ratio", 0.5, 0.2, 0.1, "better"), ("SS log-ratio", -0.5, -0.2, 0.1, "better"),
        ("SS log-ratio", 0.2, 0.5, 0.1, "worse"), ("SS log-ratio", 0.2, -0.1, 0.1, "past"),
        ("CrowS-Pairs log-ratio", -0.2, -0.5, 0.1, "worse"), ("CrowS-Pairs log-ratio", 0.5, 0.2, 0.4, "unclear"),
    ],
)  # fmt: skip
def test_what_a_change_means(metric, before, after, half, wanted):
    change = after - before
    estimate = Estimate(Interval(after, after - 1, after + 1), Interval(change, change - half, change + half), None)
    assert verdict(metric, estimate) == wanted


@pytest.mark.parametrize(
    ("ratio", "wanted"),
    [
        ((-0.25, 0.1), "to 0.150 nats: it fell by 0.250 nats [0.150, 0.350]."),
        ((0.25, 0.1), "to 0.650 nats: it rose by 0.250 nats [0.150, 0.350]."),
        ((0.01, 0.1), "to 0.410 nats: it changed by +0.010 [−0.090, +0.110], not significant (95 % CI includes 0)."),
    ],
)
def test_the_log_ratio_is_told_where_it_was_measured(ratio, wanted):
    assert wanted in answer(made.debias_findings(ratio=ratio), "on 9 sentences")[0]
    assert "log-ratio" not in " ".join(answer(made.debias_findings(), "on 9 sentences"))


def test_runs_with_and_without_log_ratios_stand_side_by_side(tmp_path):
    """Earlier versions measured none."""
    made.debias(tmp_path / "old/version_0")
    made.debias(tmp_path / "new/version_0", ratio=(-0.25, 0.1))
    section = side_by_side(read_runs([str(tmp_path / name) for name in ("old/version_0", "new/version_0")]))
    rows = dict(section.tables[0].rows)
    assert [cell.text for cell in rows["SS log-ratio, untouched"]] == ["n/a", "0.400"]
    assert [cell.text for cell in rows["SS log-ratio, suppressed"]] == ["n/a", "0.150"]


def test_past_50_is_told_with_its_distance():
    def said(before: float, after: float) -> str:
        change = after - before
        return stereotype_sentence(before, Estimate(Interval(after, 0, 99), Interval(change, change - 1, change + 1)))

    assert "on the other side of 50, farther from it than before" in said(52, 44)
    assert "on the other side of 50, closer to it than before" in said(56, 48)
    assert "on the other side of 50, as far from it as before" in said(53, 47)


@pytest.mark.parametrize("metric", ["gap", "log gap"])
@pytest.mark.parametrize("suppressed", [-80, 3])
@pytest.mark.parametrize("amplified", [90, 4])
@pytest.mark.parametrize("beyond", [-30, 2])
def test_the_gap_is_told_beside_random_neurons(metric, suppressed, amplified, beyond):
    scale = 1 if metric == "gap" else 10
    told = gap_sentence(
        made.debias_findings(gap=suppressed * scale, amplified=amplified * scale, beyond=beyond), metric
    )
    assert ("fell by 80 % [75, 85]" in told) is (suppressed == -80)
    assert ("doubled, it rose by 90 % [85, 95]. As many random" in told) is (amplified == 90)
    assert ("the difference from them, −30 % [−35, −25], is significant." in told) is (beyond == -30)
    unclear = (suppressed == 3) + (amplified == 4) + (beyond == 2)
    assert told.count("not significant (95 % CI includes 0)") == unclear
    assert "random, 2 seeds) change it by +1 % [−4, +6]" in told
    assert "The standard deviation over random seeds is 3 %." in told


def test_random_neurons_are_told_by_the_paired_difference():
    """Both intervals overlap, and yet the paired difference is significant; or they don't, and it isn't (B9)."""
    findings = made.debias_findings({**made.GOOD, "ICAT": (0.9, 0.8)})
    own = ("BNS, guarded", "ICAT", "overall")
    control = findings.get("random, 2 seeds", "ICAT").change
    for beyond, outcome in ((Interval(0.8, 0.1, 1.5), "significant"), (Interval(0.8, -0.1, 1.7), "not significant")):
        estimates = {**findings.estimates, own: findings.estimates[own]._replace(beyond_random=beyond)}
        changed = Findings("debias", "tiny", findings.settings, findings.facts, findings.rows, estimates)
        assert estimates[own].change.low < control.high  # the intervals overlap
        text = answer(changed, "")[1]
        assert f"the difference from them, +0.8 [{beyond.low:+.1f}".replace("-", "−") in text
        assert f"is {outcome}" in text


def test_one_operator_says_what_is_significant():
    assert is_significant(0.05)
    assert not is_significant(0.0501)


def test_a_factor_is_told():
    told = gap_sentence(made.debias_findings(factor=0.25), "gap")
    assert "With the neurons multiplied by 0.25, the gap" in told
    assert "With the neurons switched off (multiplied by 0), the gap" in gap_sentence(made.debias_findings(), "gap")


def test_the_table_s_answer_sorts_its_rows():
    _, icat, lms, knowledge, cheapest, controls = table_answer(made.table_findings())
    assert icat == (
        "ICAT rose for bns_guarded (+6.0); it fell for dpce (−6.0); it did not change significantly for bns_paper "
        "(+0.5)."
    )
    assert lms.startswith("LMS rose for bns_guarded (+2.0); it fell for dpce (−2.0)")
    assert knowledge == (
        "Knowledge rose for bns_guarded (+4.0); it fell for dpce (−4.0); it did not change significantly for "
        "bns_paper (−1.0)."
    )
    assert "lowest for bns_guarded (+5.0 % [+4.0, +6.0])" in cheapest
    assert "random_bns: +0.5" in controls
    assert table_answer(made.table_findings(outcomes={"dpce": made.BAD}))[1:] == [
        "ICAT fell for dpce (−6.0).", "LMS fell for dpce (−2.0).", "Knowledge fell for dpce (−4.0).",
    ]  # fmt: skip


def test_the_comparison_s_answer(tmp_path):
    def said(name: str, **options: Any) -> str:
        return " ".join(compare_answer(findings_of(made.comparison(tmp_path / name, **options))))

    more = said("more")
    assert ": more than expected by chance (hypergeometric test, p = 0.001)" in more
    assert ": more than expected by chance (permutation test, p = 0.001)" in more
    assert (
        "layers [+0.20, +0.80], more than expected by chance (permutation test, p = 0.001): B's neurons are farther"
        in more
    )
    less = said("less", p_value=0.6, shift=-0.5)
    for test in ("hypergeometric", "permutation"):
        assert f"not more than expected by chance ({test} test, p = 0.600)" in less
    assert "layers [−0.80, −0.20], not more than expected by chance (permutation test, p = 0.600)." in less
    assert "embeddings" not in less
    assert "B's neurons are closer to the embeddings" in said("closer", shift=-0.5)
    other = said("other", same=False)
    assert "Neuron indices do not correspond between these models" in other
    (run,) = read_runs([str(made.comparison(tmp_path / "null", same=False))])
    tables = compare_section.chapter(run).sections[0].tables
    assert {cell.text for name, cells in tables[1].rows if name == "gender" for cell in cells} == {"n/a"}


def test_the_probe_s_answer(tmp_path):
    def said(name: str, **options: Any) -> str:
        return " ".join(probe_answer(findings_of(made.probe(tmp_path / name, **options))))

    assert "this share fell by 5.0 points [3.0, 7.0]" in said("fell")
    assert "this share rose by 5.0 points" in said("rose", change=5.0)
    assert "not significant" in said("unclear", half=6.0)
    assert "−5.2 [−7.2, −3.2], is significant" in said("beyond")


def test_what_is_missing_is_named_with_its_command(tmp_path):
    folder = made.debias(tmp_path / "run")
    report([str(folder)], str(tmp_path / "out"))
    text = kept(Tree((tmp_path / "out/report.html").read_text()).root.words())
    for command in ("cards", "side-effects", "compare"):
        assert f"biaslab {command} {folder}/neurons.json" in text
    assert "biaslab table --model tiny" in text
    (tmp_path / "run/neurons.json").unlink()
    (tmp_path / "run/scores.safetensors").unlink()
    report([str(folder)], str(tmp_path / "out"), title="A title")
    assert "<h1>A title</h1>" in (tmp_path / "out/report.html").read_text()


def test_runs_stand_side_by_side_where_they_compare(tmp_path):
    one = made.debias(tmp_path / "a/version_0")
    assert side_by_side(read_runs([str(one)])) is None
    two = made.debias(tmp_path / "a/version_1", made.BAD)
    section = side_by_side(read_runs([str(one), str(two), str(one)]))
    assert section is not None
    (table,) = section.tables
    assert table.columns == ["", "a/version_0", "a/version_1"]
    assert "All runs were evaluated on 50 clusters" in section.text[0]
    icat = dict(table.rows)["ICAT, suppressed"]
    assert [(cell.text, cell.verdict) for cell in icat] == [("76.0", "better"), ("64.0", "worse")]
    assert [cell.text for cell in dict(table.rows)["ICAT, untouched"]] == ["70.0", "70.0"]
    known = dict(table.rows)["knowledge, suppressed"]
    assert [(cell.text, cell.verdict) for cell in known] == [("79.0", "better"), ("71.0", "worse")]
    three = made.debias(tmp_path / "a/version_2", clusters=20)
    section = side_by_side(read_runs([str(one), str(three)]))
    assert "can't be compared" in section.text[0]
    tables = [made.table(tmp_path / "t/x"), made.table(tmp_path / "t/y", "other", {"dpce": made.BAD}, limit=9)]
    section = side_by_side(read_runs(list(map(str, tables))))
    rows = dict(section.tables[0].rows)
    assert [cell.text for cell in rows["dpce"]] == ["64.0", "64.0"]
    assert [cell.text for cell in rows["bns_guarded"]] == ["76.0", "n/a"]
    assert "different settings (limit)" in section.text[0]


def test_folders_of_single_parts(tmp_path):
    folders = [made.cards(tmp_path / "cards", 2), made.effects(tmp_path / "effects")]
    report([str(folder) for folder in folders], str(tmp_path / "out"))
    text = kept(Tree((tmp_path / "out/report.html").read_text()).root.words())
    assert "The 2 neurons with the largest mean scores are described." in text
    assert "By suppressed neurons: gender 76.0 (+6.0), " in text


def test_limits_and_sources_are_those_of_the_runs(tmp_path):
    runs = read_runs([str(made.debias(tmp_path / "run"))])
    text = " ".join(limits(runs))
    assert (
        "It changes by −80 % [−85, −75] here; the log-odds gap, which is not affected by this, changes by −8 % "
        "[−13, −3]." in text
    )
    assert "test split" in text
    assert "Demographic pairs that could not be evaluated" in text
    names = [source.what for source in sources(runs)]
    assert "BOLD" in names
    assert "PANDA" not in names
    assert "CrowS-Pairs" not in names
    text = " ".join(limits(read_runs([str(made.debias(tmp_path / "other", contrast="bug", limit=30))])))
    assert "test split" not in text
    assert "Only 30 clusters" in text


def test_two_neuron_files_are_of_one_model(tmp_path):
    folders = [made.debias(tmp_path / "run", model="minilm-mlm"), made.comparison(tmp_path / "c", model="minilm-mlm")]
    runs = read_runs(list(map(str, folders)))
    assert "The results hold for 1 model (minilm-mlm)" in " ".join(limits(runs))
    assert [source.what for source in sources(runs)].count("The model minilm-mlm") == 1


def test_the_command_gives_the_same_settings():
    settings = {
        "model": "a b", "dimensions": ["gender", "age"], "kinds": ["negative"], "count": 7, "guard_weight": 2.5,
        "steps": "auto", "contrast": "bold", "limit": None, "trust_remote_code": True, "text": "x'y.txt",
    }  # fmt: skip
    words = shlex.split(command_line("debias", settings))
    assert words[:2] == ["biaslab", "debias"]
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(debias)
    parsed = parser.parse_args(words[2:]).as_dict()
    assert {name: parsed[name] for name in settings} == settings


@pytest.mark.parametrize(
    "arguments",
    [["a", "b c"], ["--output", "x", "a", "b c"], ["a", "--title=T", "b c", "--output=x"], ['["a", "b c"]'][:0]],
)
def test_folders_become_the_list_that_the_command_line_wants(arguments):
    def command(runs: list[str], output: str = "report", title: str | None = None) -> tuple[Any, ...]:
        return runs, output, title

    if not arguments:
        assert joined(["--help"]) == ["--help"]
        return
    runs, output, title = jsonargparse.auto_cli(command, args=joined(arguments))
    assert runs == ["a", "b c"]
    assert output == ("x" if any("output" in argument for argument in arguments) else "report")
    assert title == ("T" if "--title=T" in arguments else None)


def test_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    for runs, what in (
        ([], "got none"),
        ([str(tmp_path / "nowhere")], "is not a folder"),
        ([str(tmp_path / "empty")], r"has none of results.json \(`biaslab debias`\), table.json"),
    ):
        with pytest.raises(InputError, match=f"`runs` is expected to be .*{what}"):
            report(runs, str(tmp_path / "out"))
    folder = made.table(tmp_path / "table")
    whole = json.loads((folder / "table.json").read_text())
    for content, what in (
        ('{"model": ', "can't be read"),
        ("[]", "has schema None. Run its command again"),
        ('{"model": "m"}', "has schema None. Run its command again"),
        (json.dumps(whole | {"schema": 0}), "has schema 0. Run its command again"),
        (json.dumps({key: value for key, value in whole.items() if key != "settings"}), "is incomplete: 'settings'"),
    ):
        (folder / "table.json").write_text(content)
        with pytest.raises(InputError, match=f"`runs` .*table.json {what}"):
            report([str(folder)], str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_damaged_scores_are_named(tmp_path):
    """B23: they were left out without a word."""
    folder = made.debias(tmp_path / "run")
    (folder / "scores.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"`runs` .*scores.safetensors can't be read: .* Run its command again"):
        report([str(folder)], str(tmp_path / "out"))
    for tensors, what in (({"other": torch.zeros(1)}, "can't be read"), ({"scores": torch.zeros(2, 3)}, r"\[2, 3\]")):
        save_file(tensors, folder / "scores.safetensors")
        with pytest.raises(InputError, match=rf"`runs` .*scores.safetensors.* {what}"):
            read_runs([str(folder)])


def test_scores_are_the_mean_over_the_pairs_that_have_any(tmp_path):
    folder, nan = made.debias(tmp_path / "run"), float("nan")
    save_file({"scores": torch.tensor([[[1.0, nan, nan]], [[3.0, 5.0, nan]]])}, folder / "scores.safetensors")
    (run,) = read_runs([str(folder)])
    assert run.scores.tolist() == [[2.0, 5.0, 0.0]]


def test_a_score_that_is_not_defined_does_no_harm(tmp_path):
    folder = made.debias(tmp_path / "run")
    (run,) = read_runs([str(folder)])
    findings = run.findings["debias"]
    estimates = dict(findings.estimates) | {("BNS, guarded", "ICAT", "race"): made.NOTHING}
    Findings("debias", "tiny", findings.settings, findings.facts, findings.rows, estimates).save(folder)
    (run,) = read_runs([str(folder)])
    chapter = debias_section.chapter(run)
    domains = next(section for section in chapter.sections if section.title == "By domain")
    cell = dict(domains.tables[0].rows)["BNS, guarded"][1]
    assert (cell.text, cell.verdict) == ("n/a", "")
    assert "rose for gender" in chapter.answer[2]


def test_each_figure_is_drawn_once(tmp_path, monkeypatch):
    """B25: each was drawn twice, and a PNG was made and removed."""
    drawn_by: list[str] = []
    for name in ("icat_against_lms", "icat_before_after"):
        function = getattr(shared, name)
        monkeypatch.setattr(shared, name, lambda *a, f=function: drawn_by.append(f.__name__) or f(*a))
    laid_out = []
    draw = Figure.draw_without_rendering
    monkeypatch.setattr(Figure, "draw_without_rendering", lambda figure: laid_out.append(figure) or draw(figure))
    formats = []
    savefig = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **k: formats.append(k["format"]) or savefig(f, *a, **k))
    report([str(made.sweep(tmp_path / "s"))], str(tmp_path / "out"))
    assert drawn_by == ["icat_against_lms"]
    assert len(laid_out) == 2
    assert formats == ["svg", "pdf", "svg"] * 2


WITHOUT = """
import sys
heavy = {"torch", "transformers", "pytorch_lightning"}
sys.meta_path.insert(0, type("Refuse", (), {"find_spec": staticmethod(
    lambda name, path=None, target=None: exec("raise AssertionError(name)") if name.split(".")[0] in heavy else None
)}))
from biaslab.commands.report import report
assert not {"matplotlib", "jinja2", "numpy"} & set(sys.modules)
report(sys.argv[1:-1], sys.argv[-1])
"""


def test_neither_torch_nor_transformers_nor_lightning_is_needed(tmp_path):
    run = made.cards(made.effects(made.debias(tmp_path / "debias/version_0")))
    others = [make(tmp_path / make.__name__) for make in (made.table, made.comparison, made.probe, made.sweep)]
    command = [sys.executable, "-c", WITHOUT, *map(str, [run, *others, tmp_path / "out"])]
    subprocess.run(command, check=True, timeout=300)
    assert (tmp_path / "out/report.html").is_file()


def test_an_inlined_figure_keeps_its_own_names():
    parts = '<metadata>x</metadata><g id="a"/><use xlink:href="#a" clip-path="url(#a)"/>'
    svg = f'<?xml?><svg viewBox="0 0 1 1">{parts}</svg>'
    found = inline(svg, "one", "T", "D")
    assert 'id="one-a"' in found
    assert 'href="#one-a"' in found
    assert "url(#one-a)" in found
    texts = (
        """<text style="font-size: 8px; font-family: 'A', b">x</text><text style="font-family: c; fill: red">y</text>"""
    )
    found = inline(f'<?xml?><svg viewBox="0 0 1 1">{texts}</svg>', "one", "T", "D")
    assert '<text style="font-size: 8px; ">x</text><text style="fill: red">y</text>' in found
    assert "metadata" not in found


def test_lines_do_not_break_where_they_should_not():
    assert kept_together("a, b [x, y, z] 5 %") == "a, b [x, y, z] 5\u00a0%"


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the light and dark schemes and of paper."""
    blocks = re.findall(r":root \{(.*?)\}", CSS.read_text(), re.DOTALL)
    found = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in blocks]
    return dict(zip(("light", "dark", "paper"), found, strict=True))


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark", "paper"])
def test_letters_stand_out_from_what_is_behind_them(scheme):
    colors = schemes()[scheme]
    for letters, behind in itertools.product(("ink", "muted", "link", "good", "bad", "past"), ("paper", "panel")):
        high, low = sorted((luminance(colors[letters]), luminance(colors[behind])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{letters} on {behind}"


def test_all_colours_are_named():
    rest = re.sub(r":root \{.*?\}", "", CSS.read_text(), flags=re.DOTALL)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", rest)
    assert ":focus-visible" in rest


def test_real_runs_are_read(lab, workdir, tiny_cache, few_prompts):
    """Runs of tiny models, as the commands write them today."""
    text, model = str(lab / "text.txt"), str(lab / "model")
    main(["debias", "--model", model, "--source", "prompts", "--contrast", text, "--text", text, "--stereoset",
          str(lab / "stereoset.json"), "--dimensions", "[gender, age]", "--modifiers", "1", "--steps", "2", "--seeds",
          "2", "--sentences", "3"])  # fmt: skip
    main(
        ["table", "--model", model, "--text", text, "--sentences", "4", "--rows", "[bns_paper, bns_ranked, random_bns]"]
    )
    (table,) = (workdir / "runs/table").iterdir()
    report(["runs/debias/version_0", str(table)])
    tree = Tree((workdir / "report/report.html").read_text()).root
    findings = Findings.load(workdir / "runs/debias/version_0/results.json")
    icat = findings.estimates["BNS, balanced", "ICAT", "overall"].figure.value
    assert f"{icat:.1f}" in tree.words()
    assert len(tree.all("svg")) == 6 + 2
