"""The report as a command: one page of what runs found."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path


def report(runs: list[str], output: str = "report", title: str | None = None) -> None:
    """Write one page of what runs found: report.html, which needs no network, and its figures for papers.

    The page gathers what lies in the folders: results of debias, tables, comparisons, sweeps and probing, neuron cards
    and side effects. What is missing is named with the command that makes it.

    Args:
        runs: folders of runs, such as runs/debias/version_0 and runs/table/minilm-mlm.
        output: the folder that report.html and figures/ are written to.
        title: of the page; made from the models' names by default.
    """
    from biaslab.report.page import write_report

    path = write_report(runs, Path(output).expanduser(), title)
    print(f"Results written to {path}, figures for papers to {path.parent / 'figures'}.")


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the command's arguments with its folders as the one list that the command line wants.

    >>> joined(["runs/a", "runs/b", "--output", "there"])
    ['["runs/a", "runs/b"]', '--output', 'there']
    """
    folders: list[str] = []
    options: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        (options if argument.startswith("-") else folders).append(argument)
        if argument.startswith("-") and "=" not in argument and argument not in ("-h", "--help"):
            options += islice(rest, 1)
    return [json.dumps(folders, ensure_ascii=False), *options] if folders else options
