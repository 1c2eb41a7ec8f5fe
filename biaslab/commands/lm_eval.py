"""The command line of lm-evaluation-harness, with biaslab's model registered."""

import sys

_USAGE = """usage: biaslab lm-eval [run] --model biaslab --tasks TASK [TASK ...]
       --model_args pretrained=MODEL,neurons=FILE[,factor=FACTOR][,KEY=VALUE ...]
       [OPTION ...]

Run lm-evaluation-harness on a causal model with suppressed neurons. The options
are the harness's own: `biaslab lm-eval run --help` lists them. Requires
pip install 'biaslab[lm-eval]'.

Releases of lm_eval that load third-party models through entry points (group
lm_eval.models) find the model without this command: lm_eval --model biaslab …
Version 0.4.13 does not. In Python, import biaslab.lm_eval, then call
lm_eval.simple_evaluate(model="biaslab", model_args=…).

model_args:
  pretrained=MODEL        an asset name, a local folder or a hub id
  neurons=FILE            a neuron file (path or hub id) for these weights
  factor=FACTOR           multiplier of the neurons' activations: 0 suppresses,
                          1 leaves the model untouched (default: 0)
  positions=all           the only choice: whole texts are scored
  dtype=DTYPE             of the weights (default: auto, the checkpoint's own)
  device_map=auto         for a model that does not fit on one device
  trust_remote_code=True  allow a checkpoint to run its own Python code
  max_length, softmax_dtype, logits_cache, chat_template_args, …
                          as for lm_eval's model hf

--use_cache identifies requests, not models: use a separate cache file for each
neuron file and factor."""


def lm_eval(arguments: list[str]) -> None:
    """Run the command of lm-evaluation-harness with these arguments.

    Raises:
        InputError: if it is not installed, or a model argument is invalid.
    """
    if arguments in ([], ["--help"], ["-h"]):
        print(_USAGE)
        return
    from biaslab.lm_eval import require_installed

    require_installed()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
