"""Time of attribution with the authors' loop, captum and biaslab; FLOP/s, key/value reuse, accuracy and memory.

python benchmarks/attribution.py [masked] [pairs] [causal] [accuracy] [memory] [--device cpu] [--dtype float32]

captum is optional: pip install matplotlib, then pip install --no-deps captum (its metadata requires an old numpy, which
its code does not need).
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from cost import attribution_flops, sizes
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from biaslab.attribution.gaps import attribute_gaps
from biaslab.attribution.integration import GapAttribution
from biaslab.data.prompts import PromptDataModule
from biaslab.models.architectures import ffn_modules
from biaslab.models.loading import load_model

LENGTHS = {12: 3, 13: 4, 14: 4, 15: 3, 16: 3}  # seventeen prompts of 12 to 16 tokens
PADDED, POINTS, REFERENCE = 128, 20, 64
ROUNDS = 5
_NEEDED = ("input_ids", "position", "target_ids", "pairs")


class Prompts(NamedTuple):
    """Prompts of equal length: ids [batch, length], slots [batch], targets [batch, target]."""

    ids: Tensor
    position: Tensor
    targets: Tensor


def make_prompts(device: str, targets: int) -> list[Prompts]:
    generator = torch.Generator().manual_seed(1)
    wanted = torch.randint(1000, 30_000, (targets,), generator=generator)
    batches = []
    for length, count in LENGTHS.items():
        ids = torch.randint(1000, 30_000, (count, length), generator=generator)
        position = torch.randint(1, length - 1, (count,), generator=generator)
        batches.append(Prompts(*(x.to(device) for x in (ids, position, wanted.expand(count, -1)))))
    return batches


def seconds(function: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def authors_loop(model: PreTrainedModel, prompts: Prompts) -> Tensor:
    """IG of one prompt, demographic and layer at a time: padded to 128, full passes, 20 left Riemann points, signed."""
    ids, position = prompts.ids[:1], int(prompts.position[0])
    padded = torch.zeros(1, PADDED, dtype=torch.long, device=ids.device)
    padded[:, : ids.shape[1]] = ids
    mask = (torch.arange(PADDED, device=ids.device) < ids.shape[1]).long()[None]
    per_target = []
    for target in prompts.targets[0].tolist():
        per_layer = []
        for module in ffn_modules(model):
            seen: list[Tensor] = []
            with (
                torch.no_grad(),
                module.register_forward_pre_hook(lambda _, args, s=seen: s.append(args[0][0, position])),
            ):
                model(input_ids=padded, attention_mask=mask)
            scaled = (torch.arange(POINTS, device=ids.device)[:, None] / POINTS * seen[0]).requires_grad_()

            def replace(_: object, args: tuple[Tensor], scaled: Tensor = scaled) -> tuple[Tensor]:
                changed = args[0].clone()
                changed[:, position] = scaled
                return (changed,)

            with module.register_forward_pre_hook(replace):
                logits = model(input_ids=padded.expand(POINTS, -1), attention_mask=mask.expand(POINTS, -1)).logits
                probability = logits[:, position].softmax(-1)[:, target]
                (gradient,) = torch.autograd.grad(probability.sum(), scaled)
            per_layer.append(seen[0] * gradient.sum(0) / POINTS)
        per_target.append(torch.stack(per_layer))
    return per_target[0] - per_target[1]  # [layer, neuron]


def captum_layers(model: PreTrainedModel, prompts: Prompts, steps: int) -> Tensor:
    """LayerIntegratedGradients of the gap, layer by layer; only the activation at the slot is set to the baseline."""
    from captum.attr import LayerIntegratedGradients

    ids, position = prompts.ids[:1], int(prompts.position[0])
    first, second = prompts.targets[0].tolist()
    per_layer = []
    for module in ffn_modules(model):

        def gap(switch: Tensor, module: torch.nn.Module = module) -> Tensor:
            def scale(_: object, args: tuple[Tensor]) -> tuple[Tensor]:
                factor = torch.ones_like(args[0])
                factor[:, position] = switch
                return (args[0] * factor,)

            with module.register_forward_pre_hook(scale, prepend=True):
                logits = model(input_ids=ids.expand(len(switch), -1)).logits
            probabilities = logits[:, position].softmax(-1)
            return probabilities[:, first] - probabilities[:, second]

        method = LayerIntegratedGradients(gap, module)
        one = torch.ones(1, 1, device=ids.device)
        attributed = method.attribute(one, one * 0, n_steps=steps, attribute_to_layer_input=True)
        found = attributed[0] if isinstance(attributed, tuple) else attributed
        per_layer.append(found[0, position].detach())
    return torch.stack(per_layer)


class Products(TorchDispatchMode):
    """Records the matrix products with the model's weights: the shape of the first factor, and the second factor."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.calls: list[tuple[torch.Size, Tensor]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            first, second = args[-2:]
            if second.untyped_storage().data_ptr() in self.weights:
                self.calls.append((first.shape, second))
        return function(*args, **(kwargs or {}))

    def flops(self) -> float:
        return sum(2.0 * shape.numel() * weight.shape[1] for shape, weight in self.calls)

    def replay(self) -> Callable[[], object]:
        """Return a function that computes only these products, in the same order."""
        inputs = {shape: torch.randn(shape).to(weight) for shape, weight in self.calls}
        return lambda: [torch.mm(inputs[shape], weight) for shape, weight in self.calls]


def run(model: PreTrainedModel, batches: list[Prompts], pairs: Tensor, **options: object) -> list[GapAttribution]:
    return [attribute_gaps(model, *batch, pairs.to(batch.ids.device), **options) for batch in batches]  # type: ignore[arg-type]


def flops_of(model: PreTrainedModel, batches: list[Prompts], found: list[GapAttribution], pairs: Tensor) -> float:
    directions, with_one = len(pairs.unique()) - 1, bool((found[0].nodes % 2 == 1).all())
    return sum(
        attribution_flops(
            sizes(model), *batch.ids.shape, float(result.nodes.double().mean()), directions, len(pairs), with_one
        )
        for batch, result in zip(batches, found, strict=True)
    )


def error(scores: Tensor, reference: Tensor) -> float:
    return float((scores - reference).abs().sum() / reference.abs().sum())


def report(name: str, prompt: float, base: float, off: float, rate: float = 0, share: float = 0) -> None:
    speed = f"{rate / 1e9:9.0f}{share:8.2f}" if rate else ""
    print(f"{name:44}{prompt:10.3f}{base / prompt:9.0f}{off:10.1e}{speed}", flush=True)


def compare(model: PreTrainedModel, device: str, targets: int, loop: float | None) -> float:
    """Print a table for all pairs of a number of demographics; return the loop's seconds for one prompt and pair."""
    batches, pairs = make_prompts(device, targets), torch.combinations(torch.arange(targets))
    count = sum(len(batch.ids) for batch in batches)
    one = Prompts(*(x[:1] for x in batches[2]))
    print(f"\n{count} prompts of 12 to 16 tokens, {len(pairs)} pair{'s' if len(pairs) > 1 else ''}")
    print(f"{'':44}{'s/prompt':>10}{'ratio':>9}{'error':>10}{'GFLOP/s':>9}{'/GEMM':>8}")
    nodes = REFERENCE if targets == 2 else REFERENCE // 4
    exact = {g: attribute_gaps(model, *one, pairs, steps=nodes, gap=g).scores[0] for g in ("signed", "absolute")}
    if loop is None:
        found: list[Tensor] = []
        loop = seconds(lambda: found.append(authors_loop(model, one)), device)
        report("(a) authors' loop, signed, 20 left Riemann", loop, loop, error(found[0], exact["signed"][0]))
        try:
            took = seconds(lambda: found.append(captum_layers(model, one, steps=3)), device)
            report("(b) captum, signed, 3 Gauss-Legendre", took, loop, error(found[1], exact["signed"][0]))
        except ImportError:
            print("(b) captum is not installed")
    else:
        print(f"(a) {loop:.1f} s per pair, as above")
    base = loop * len(pairs)
    rules: dict[str, dict[str, object]] = {
        "2 Gauss-Legendre": {"steps": 2},
        "3 Clenshaw-Curtis": {"steps": 3, "quadrature": "clenshaw_curtis"},
        "auto": {"steps": "auto"},
    }
    if targets > 2:  # to save time
        del rules["2 Gauss-Legendre"]
    for gap, name in itertools.product(("signed", "absolute"), rules):
        options = rules[name] | {"gap": gap}
        off = error(attribute_gaps(model, *one, pairs, **options).scores[0], exact[gap])  # type: ignore[arg-type]
        if targets > 2:
            took = seconds(lambda o=options: run(model, batches, pairs, **o), device)
            report(f"(c) biaslab, {gap}, {name}", took / count, base, off)
            continue
        with Products(model) as products:
            results = run(model, batches, pairs, **options)
        alone, arithmetic = products.replay(), flops_of(model, batches, results, pairs)
        seconds(alone, device)
        times, shares = [], []
        for _ in range(ROUNDS):  # alternating, so that drifts in machine speed affect both
            gemm = products.flops() / seconds(alone, device)
            times.append(seconds(lambda o=options: run(model, batches, pairs, **o), device))
            shares.append(arithmetic / times[-1] / gemm)
        took = statistics.median(times)
        report(f"(c) biaslab, {gap}, {name}", took / count, base, off, arithmetic / took, statistics.median(shares))
    return loop


def masked(device: str, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig()).to(device, dtype).eval().requires_grad_(False)
    return compare(model, device, 2, None)


def all_pairs(device: str, dtype: torch.dtype, loop: float | None) -> None:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig()).to(device, dtype).eval().requires_grad_(False)
    one = make_prompts(device, 2)[2]
    loop = loop or seconds(lambda: authors_loop(model, Prompts(*(x[:1] for x in one))), device)
    compare(model, device, 10, loop)


def causal(device: str, dtype: torch.dtype) -> None:
    """Print the speedup from reusing keys and values; an attention mask of ones disables it."""
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12)
    model = LlamaForCausalLM(config).to(device, dtype).eval().requires_grad_(False)
    count = 36  # number of prompts in a batch of 512 tokens
    print(f"\ncausal, llama shape, 12 layers, {count} prompts, slot last, 3 Clenshaw-Curtis nodes")
    for length, targets in ((14, 2), (28, 2), (14, 10)):
        ids = torch.randint(1000, 30_000, (count, length), generator=torch.Generator().manual_seed(1)).to(device)
        position, mask = ids[:, 0] * 0 + length - 1, torch.ones_like(ids)
        pairs = torch.combinations(torch.arange(targets)).to(device)
        arguments = ids, position, torch.arange(1000, 1000 + targets, device=device).expand(count, -1), pairs
        go = partial(attribute_gaps, model, *arguments, steps=3, quadrature="clenshaw_curtis")
        for _ in range(3):  # warm up: allocate memory and select kernels
            go()
        reused, whole = seconds(go, device) / count, seconds(partial(go, attention_mask=mask), device) / count
        what = f"{length} tokens, {len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
        print(f"{what:20}{reused:.3f} s per prompt, without reuse {whole:.3f}: ratio {whole / reused:.1f}")


def accuracy() -> None:
    """Print the errors of the quadrature rules on a real model, relative to 40 Gauss-Legendre nodes."""
    model, _ = load_model("minilm-mlm")
    data = PromptDataModule(dimensions=["gender", "ethnicity", "religion"], kinds=["negative"], modifiers=1)
    data.setup("predict")
    batches = [{k: v if k == "pairs" else v[:2] for k, v in b.items() if k in _NEEDED} for b in data.batches[::3]]
    rules: list[dict[str, object]] = [
        {"steps": 20, "quadrature": "riemann_left"},
        *({"steps": steps, "quadrature": "gauss_legendre"} for steps in (2, 3, 4, 6)),
        *({"steps": steps, "quadrature": "clenshaw_curtis"} for steps in (3, 5)),
        {"steps": "auto"},
        {"steps": "auto", "tolerance": 0.001},
    ]
    print(f"\nminilm-mlm, {2 * len(batches)} prompts: relative L1 error per layer and pair")
    print(f"{'':52}{'median':>9}{'95 %':>9}{'all':>9}{'nodes':>7}")
    for gap in ("signed", "absolute"):
        exact = [attribute_gaps(model, **batch, steps=40, gap=gap).scores for batch in batches]
        size = torch.cat([scores.abs().sum(-1).flatten() for scores in exact])
        for rule in rules:
            found = [attribute_gaps(model, **batch, gap=gap, **rule) for batch in batches]  # type: ignore[arg-type]
            off = torch.cat([(f.scores - e).abs().sum(-1).flatten() for f, e in zip(found, exact, strict=True)])
            nodes = torch.cat([f.nodes.flatten() for f in found]).double().mean()
            name = f"{gap}, " + ", ".join(f"{key} {value}" for key, value in rule.items())
            figures = (off / size).median(), (off / size).quantile(0.95), off.sum() / size.sum()
            print(f"{name:52}" + "".join(f"{float(x):9.1e}" for x in figures) + f"{nodes:7.1f}", flush=True)


def memory() -> None:
    """Print the peak memory of `biaslab predict` with few and with many prompts."""
    config = Path(__file__).parents[1] / "configs" / "attribute.yaml"
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for modifiers in (3, 28):
            process = subprocess.Popen(
                [sys.executable, "-m", "biaslab", "predict", "-c", config, "--model.selection", "ranked",
                 "--model.source", "prompts", "--data.contrast", "null", "--data.dimensions", "[gender]",
                 "--data.kinds", "null", "--data.modifiers", str(modifiers), "--model.save_every", "5",
                 "--trainer.logger.save_dir", folder],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0, "biaslab predict failed"
            peaks[modifiers * 6 * 12] = usage.ru_maxrss / 1024
    (few, low), (many, high) = peaks.items()
    print(
        f"\npeak memory, minilm-mlm: {low:.0f} MiB for {few} prompts, {high:.0f} MiB for {many}: ratio {high / low:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("masked", "pairs", "causal", "accuracy", "memory")
    parser.add_argument("parts", nargs="*", default=parts, help=", ".join(parts))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 for float32 matrix products on a GPU")
    parser.add_argument("--loop", type=float, help="seconds of (a) per prompt and pair, if already measured")
    options = parser.parse_args()
    device, dtype = options.device, getattr(torch, options.dtype)
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    name = torch.cuda.get_device_name() if device != "cpu" else f"{torch.get_num_threads()} CPU threads"
    print(f"torch {torch.__version__}, {name}, {options.dtype}{', TF32' if options.tf32 else ''}")
    loop = masked(device, dtype) if "masked" in options.parts else options.loop
    if "pairs" in options.parts:
        all_pairs(device, dtype, loop)
    if "causal" in options.parts:
        causal(device, dtype)
    if "accuracy" in options.parts:
        accuracy()
    if "memory" in options.parts:
        memory()


if __name__ == "__main__":
    main()
