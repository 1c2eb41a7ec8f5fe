"""Execute the tutorials' notebooks: compare the outputs with those in the files, or write them back.

``python docs/tutorials.py`` writes the outputs of all tutorials; ``--check`` compares instead, and exits with 1 where
they differ. Names of tutorials (``where``, ``gone``) choose some of them. A notebook's code cells run in order in one
namespace, as in a fresh kernel; what they print, the value of a cell's last expression, and their plots are its
outputs. Progress bars and messages on stderr are not kept. Warnings are errors.
"""

from __future__ import annotations

import argparse
import ast
import base64
import builtins
import io
import json
import os
import re
import sys
import time
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "pages" / "tutorials"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
RELATIVE, LAST_DIGITS = 0.02, 2  # by how much a printed number may differ: 2 %, or 2 of its last digit
DPI = 96
_NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?")


def execute(cells: list[dict[str, Any]]) -> None:
    """Run the code cells in order in one namespace, and replace their outputs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.show = lambda *_, **__: None  # plots are taken at the end of a cell, as a notebook does
    namespace: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in cells:
        if cell["cell_type"] == "code":
            count += 1
            cell["execution_count"] = count
            cell["outputs"] = _outputs("".join(cell["source"]), namespace, count)


def _outputs(source: str, namespace: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Run a cell; return what it prints, its last expression's value, and its plots, in the notebook format."""
    from matplotlib import pyplot
    from matplotlib.figure import Figure

    *body, last = ast.parse(source).body
    printed, value = io.StringIO(), None
    with redirect_stdout(printed):
        if isinstance(last, ast.Expr):
            exec(compile(ast.Module(body, []), f"<cell {count}>", "exec"), namespace)
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), namespace)
        else:
            exec(compile(source, f"<cell {count}>", "exec"), namespace)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    if isinstance(value, Figure):
        figures.append(value)
    elif value is not None:
        data = {"text/plain": builtins.repr(value).splitlines(keepends=True)}
        outputs.append({"data": data, "execution_count": count, "metadata": {}, "output_type": "execute_result"})
    outputs += [{"data": _picture(figure), "metadata": {}, "output_type": "display_data"} for figure in figures]
    pyplot.close("all")
    return outputs


def _picture(figure: Any) -> dict[str, Any]:
    """Return a plot as PNG, base64, without the version of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": ["<Figure>"]}


def differences(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[str]:
    """Return in which lines the outputs of executed cells differ: in words, in a number, or in the number of plots."""
    found = []
    for old, new in zip(before, after, strict=True):
        texts = [_text(cell.get("outputs", [])) for cell in (old, new)]
        lines = [text.splitlines() for text in texts]
        if len(lines[0]) != len(lines[1]):
            found.append(f"{len(lines[0])} lines became {len(lines[1])}:\n{texts[1]}")
            continue
        found += [f"- {a}\n+ {b}" for a, b in zip(*lines, strict=True) if not same(a, b)]
    return found


def _text(outputs: list[dict[str, Any]]) -> str:
    return "\n".join("".join(o.get("text") or o["data"]["text/plain"]) for o in outputs)


def same(first: str, second: str) -> bool:
    """Return whether two lines have the same words, and numbers that agree to 2 %, or to 2 of their last digit.

    >>> same("gap 0.12 [-1.0, 3]", "gap 0.13 [-1.2, 3]"), same("gap 0.12", "gap 0.16"), same("gap 0.12", "lap 0.12")
    (True, False, False)
    """
    if re.sub(r"\s+", " ", _NUMBER.sub("0", first)) != re.sub(r"\s+", " ", _NUMBER.sub("0", second)):
        return False
    pairs = zip(_NUMBER.findall(first), _NUMBER.findall(second), strict=True)
    return all(abs(float(a) - float(b)) <= _tolerance(a) * 1.001 for a, b in pairs)


def _tolerance(number: str) -> float:
    return max(RELATIVE * abs(float(number)), LAST_DIGITS * 10.0 ** -len(number.partition(".")[2]))


def main() -> int:
    """Execute the tutorials that are named, or all."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n\n")[0])
    names = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}; all by default")
    parser.add_argument("--check", action="store_true", help="compare the outputs instead of writing them")
    arguments = parser.parse_args()
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the program does: the same bits in each process
    warnings.simplefilter("error")
    failed = 0
    for name in arguments.names or names:
        path, started = FOLDER / f"{name}.ipynb", time.process_time()
        notebook = json.loads(path.read_text(encoding="utf-8"))
        before = json.loads(json.dumps(notebook["cells"]))
        execute(notebook["cells"])
        seconds = time.process_time() - started
        if not arguments.check:
            notebook |= {"metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}
            text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)  # as Jupyter writes it
            path.write_text(text + "\n", encoding="utf-8")
        changed = differences(before, notebook["cells"]) if arguments.check else []
        print(f"{name}: {len(changed)} differences, {seconds:.0f} CPU seconds", *changed, sep="\n")
        failed += bool(changed)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
