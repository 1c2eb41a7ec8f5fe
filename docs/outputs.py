"""Write what the pages of the commands show: each command's help, and the output of real runs.

``python docs/outputs.py`` runs everything anew, in the order below, since later commands read what earlier ones wrote;
``--only NAME ...`` runs some of them, and ``--help-texts`` only writes the help texts, in seconds. Commands run in
``build/docs``, whose runs are kept for the next time. Needs the model and the data sets that biaslab fetches by name.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = Path(__file__).resolve().parent / "pages" / "commands"
FOLDER = ROOT / "build" / "docs"
NEURONS = "runs/debias/version_0/neurons.json"
CHECKPOINT = "runs/dpce_small/version_0/checkpoints/best.ckpt"
_PROGRESS = re.compile(r"[\d?](it/s|s/it)|━━ ")  # of a bar; some are drawn among the results


class Shown(NamedTuple):
    """What a page shows: command lines that are run one after another, and the folders that they write."""

    lines: tuple[str, ...]
    writes: tuple[str, ...] = ()
    stderr: bool = False  # whether what is said beside the results is shown, too


SHOWN = {
    "models": Shown(("biaslab models",)),
    "fetch": Shown(("biaslab fetch stereoset",), stderr=True),
    "debias": Shown(("biaslab debias",), ("runs/debias",)),
    "predict": Shown(
        ("biaslab predict --plan -c attribute --data.modifiers 100", "biaslab predict -c attribute"),
        ("runs/attribute",),
    ),
    "test": Shown(
        (
            "biaslab test -c crows_pairs",
            f"biaslab test -c crows_pairs -c suppress --trainer.callbacks.neurons {NEURONS}",
        ),
        ("runs/crows_pairs",),
    ),
    "fit": Shown(
        ("biaslab fit -c dpce_small --data.limit 64 --data.validation_limit 32 --trainer.max_epochs 1",),
        ("runs/dpce_small",),
    ),
    "validate": Shown(
        (f"biaslab validate -c dpce_small --data.limit 64 --data.validation_limit 32 --ckpt_path {CHECKPOINT}",),
    ),
    "table": Shown(
        ("biaslab table --rows '[base, bns_paper, bns_guarded, random_bns]' --limit 300 --sentences 50 --seeds 2",),
        ("runs/table",),
    ),
    "sweep": Shown(
        (
            "biaslab sweep --guards '[stereoset]' --guard_weights '[2, 5]' --factors '[0, 0.5]' "
            "--every 20 --limit 300 --sentences 20 --seeds 2",
        ),
        ("runs/sweep",),
    ),
    "probe": Shown((f"biaslab probe --neurons {NEURONS} --seeds 2",), ("runs/probe",)),
    "compare": Shown((f"biaslab compare {NEURONS} runs/attribute/version_0/neurons.json",), ("runs/compare",)),
    "side-effects": Shown(
        (f"biaslab side-effects {NEURONS} --dimensions '[gender, religion]' --every 20 --sentences 20 --seeds 1",),
    ),
    "cards": Shown((f"biaslab cards {NEURONS} --count 5",)),
    "report": Shown(("biaslab report runs/debias/version_0",), ("report",)),
    "search-prompts": Shown(("biaslab search-prompts --vocabulary 50 --beam 5 --depth 2",), ("runs/prompts.json",)),
    "bake": Shown((f"biaslab bake --model minilm-mlm --neurons {NEURONS} --output debiased",), ("debiased",)),
}


def main() -> None:
    """Write help texts and outputs, all or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SHOWN), default=list(SHOWN), metavar="NAME")
    parser.add_argument("--help-texts", action="store_true", help="write the help texts alone")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_help()
    for name in () if arguments.help_texts else arguments.only:
        started = time.monotonic()
        text = output(SHOWN[name])
        write(PAGES / "outputs" / f"{name}.txt", text)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)


def write_help() -> None:
    """Write the help of biaslab and of each of its commands, as `biaslab COMMAND --help` prints it."""
    sys.path.insert(0, str(ROOT))
    from biaslab.cli import COMMANDS

    write(PAGES / "help" / "biaslab.txt", run("biaslab --help"))
    for name in COMMANDS:
        write(PAGES / "help" / f"{name}.txt", run(f"biaslab {name} --help"))


def output(shown: Shown) -> str:
    """Run the lines of a page, and return them with what they print."""
    for folder in shown.writes:
        path = FOLDER / folder
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return "\n".join(f"$ {folded(line)}\n{run(line, shown.stderr)}" for line in shown.lines)


def folded(line: str, width: int = 100) -> str:
    """Return a command line on as many lines as it needs, joined by backslashes."""
    parts: list[str] = []
    for part in re.findall(r"(?:--?\w\S*(?: (?:'[^']*'|[^-\s]\S*))*|'[^']*'|\S+)", line):
        if parts and len(parts[-1]) + len(part) < width - 4:
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return " \\\n    ".join(parts)


def run(line: str, stderr: bool = False) -> str:
    """Run a command in the folder; return what it prints in a terminal of 80 columns, without its progress bars.

    Raises:
        SystemExit: if the command fails, with what it wrote.
    """
    environment = os.environ | {"COLUMNS": "80", "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path[1:]))}
    environment |= {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", *shlex.split(line)]
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{line} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return anonymous(done.stderr * stderr + done.stdout)


def anonymous(text: str) -> str:
    """Return an output without progress bars, paths of this machine, and blanks at the ends of lines."""
    for path, name in ((f"{FOLDER}{os.sep}", ""), (str(FOLDER), "."), (f"{ROOT}{os.sep}", ""), (str(Path.home()), "~")):
        text = text.replace(path, name)
    lines = [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").strip("\n").split("\n")]
    kept = "\n".join(line for line in lines if not _PROGRESS.search(line)).strip("\n")
    return re.sub(r"\n{3,}", "\n\n", kept) + "\n"


def write(path: Path, text: str) -> None:
    """Write a text that the pages include."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
