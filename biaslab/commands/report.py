"""The report command: one page with the results of runs."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path


def report(runs: list[str], output: str = "report", title: str | None = None) -> None:
    """Write one page with the results of runs: report.html, which works offline, and its figures for papers.

    The page shows the results in the folders: debias, table, compare, sweep and probe runs, neuron cards and side
    effects. For what is missing, it names the command that adds it.

    Args:
        runs: folders of runs, such as runs/debias/version_0 and runs/table/minilm-mlm.
        output: folder for report.html and figures/.
        title: title of the page; made from the models' names by default.
    """
    from biaslab.report.page import write_report

    path = write_report(runs, Path(output).expanduser(), title)
    print(f"Report written to {path}, figures for papers to {path.parent / 'figures'}.")


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the command's arguments with its folders joined into the one list that the parser expects.

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
