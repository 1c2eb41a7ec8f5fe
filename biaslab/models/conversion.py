"""Assets whose weights come as gguf: converted once to what transformers loads quickly."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from biaslab.models import assets


def model_folder(name: str) -> Path:
    """Return the folder of a named model in Hugging Face's form, with safetensors; fetch and convert it if need be.

    Args:
        name: a key of :data:`biaslab.models.assets.MODELS`.

    Raises:
        InputError: if the asset can't be had.
    """
    folder = assets.fetch(name)
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return folder
    converted = folder.with_name(f"{name}-converted")
    if not converted.is_dir():
        with assets.complete_or_absent(converted) as partial:
            read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=files[0].name, dtype=torch.float32)
            if hasattr(read.config, "quantization_config"):
                del read.config.quantization_config  # the weights were expanded: nothing is quantised any more
            plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
            plain.load_state_dict(read.state_dict())
            plain.save_pretrained(partial)
            AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name).save_pretrained(partial)
    return converted
