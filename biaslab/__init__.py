"""Find the neurons that carry a language model's social bias, suppress them, and measure the effect."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_PUBLIC = {
    "load_model": "models.loading",
    "integrated_gradients": "attribution.gaps",
    "integrated_gap_gradients": "attribution.gaps",
    "Neuron": "neurons.neuron_set",
    "NeuronSet": "neurons.neuron_set",
    "suppressed": "neurons.suppression",
    "NeuronSuppression": "callbacks",
    "StereotypeScore": "metrics",
    "StereotypeLogRatio": "metrics",
    "LanguageModelingScore": "metrics",
    "IdealizedCAT": "metrics",
}
__all__ = [*_PUBLIC, "__version__"]

if TYPE_CHECKING:  # for type checkers and editors
    from biaslab.attribution.gaps import integrated_gap_gradients, integrated_gradients  # noqa: F401
    from biaslab.callbacks import NeuronSuppression  # noqa: F401
    from biaslab.metrics import IdealizedCAT, LanguageModelingScore, StereotypeLogRatio, StereotypeScore  # noqa: F401
    from biaslab.models.loading import load_model  # noqa: F401
    from biaslab.neurons.neuron_set import Neuron, NeuronSet  # noqa: F401
    from biaslab.neurons.suppression import suppressed  # noqa: F401


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import biaslab`` and ``biaslab --help`` stay fast."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'biaslab' has no attribute {name!r}")
    return getattr(import_module(f"biaslab.{_PUBLIC[name]}"), name)
