"""Who may import whom, read from the source: no Lightning in the core, no upward arrow, no circle."""

import ast
from pathlib import Path

import biaslab

ROOT = Path(biaslab.__file__).parent
# Each line may import from the lines above it, and from its own (where no circle comes of it).
ORDER = [
    {"errors", "quadrature", "assets", "data.words", "data.attribute_words", "data.probe_words", "prefix", "paper"},
    {"conversion", "divergence", "readout", "dealing"},
    {"tokenization", "adapter"},
    {"architectures"},
    {"neurons", "recording", "partial", "shards", "cost"},
    {"paths", "ledger", "artifacts"},
    {
        "hooks", "attribution", "scoring", "metrics", "metrics.stereoset", "metrics.selection", "metrics.quality",
        "metrics.crows_pairs",
    },
    {
        "verification", "probing", "prompt_search", "data.queries", "comparison", "figure_style", "pictures_gaps",
        "pictures_neurons", "pictures_stereoset", "boards",
    },
    {
        "data", "data.corpus", "data.stereoset", "data.contrast", "data.prompts", "data.attribute_sentences",
        "data.counterfactual", "data.prompt_pairs", "data.crows_pairs",
    },
    {
        "callbacks", "selecting", "tasks", "tasks.base", "tasks.resumable", "tasks.training", "tasks.adapter",
        "tasks.attribution", "tasks.evaluation", "tasks.dpce", "tasks.autodebias", "tasks.cda", "tasks.crows_pairs",
    },
    {"estimates", "judging", "promoted_words", "cards"},
    {
        "results", "treatments", "model_card", "model_figures", "bake", "prompt_job", "trials", "cards_job",
        "side_effects_measures", "side_effects_tables",
    },
    {"debias", "plan", "table_files", "sweep_files", "compare_files", "side_effects_files"},
    {"probe", "table", "sweep", "compare", "side_effects"},
    {
        "report_words", "report_files", "report_figures", "report_parts", "report_effects", "report_debias",
        "report_table", "report_sweep", "report_compare", "report_side", "report_about", "report",
    },
    {"cli"},
    {"__main__"},
]  # fmt: skip
RIM = {"cli", "debias", "probe", "treatments", "sweep", "callbacks", "tasks", "data"}
DATA_MAY_SEE = {
    "errors", "assets", "tokenization", "data", "words", "attribute_words", "queries", "corpus", "stereoset",
    "contrast",
}  # fmt: skip


def modules() -> dict[str, ast.Module]:
    names = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in ROOT.rglob("*.py")
    }
    return {name: ast.parse(path.read_text()) for path, name in names.items() if name != "__init__"}


def imports(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def own(tree: ast.Module, known: set[str]) -> set[str]:
    return {name.removeprefix("biaslab.") for name in imports(tree)} & known


def test_every_module_has_its_place():
    assert set(modules()) == set().union(*ORDER)


def test_no_upward_arrow():
    rank = {name: level for level, names in enumerate(ORDER) for name in names}
    for name, tree in modules().items():
        for imported in own(tree, set(rank)):
            assert rank[imported] <= rank[name], f"{name} imports {imported}"


def test_no_circle():
    trees = modules()
    arrows = {name: own(tree, set(trees)) - {name} for name, tree in trees.items()}
    packages = {"tasks", "metrics", "data"}  # a package's __init__ names its files; its files don't name it
    arrows = {
        name: {i for i in found if not (i in packages and name.startswith(i + "."))} for name, found in arrows.items()
    }
    while arrows:
        leaves = {name for name, found in arrows.items() if not found & set(arrows)}
        assert leaves, f"a circle among {sorted(arrows)}"
        arrows = {name: found for name, found in arrows.items() if name not in leaves}


def test_lightning_is_the_rim():
    for name, tree in modules().items():
        lightning = any(module.partition(".")[0] == "pytorch_lightning" for module in imports(tree))
        assert not lightning or name.partition(".")[0] in RIM, name


def test_data_knows_no_task_metric_or_model():
    trees = modules()
    for name, tree in trees.items():
        if name.startswith("data"):
            for imported in own(tree, set(trees)):
                assert imported.rpartition(".")[2] in DATA_MAY_SEE, f"{name} imports {imported}"
