"""The command of lm-evaluation-harness, with biaslab's model among its models."""

import sys

_USAGE = """usage: biaslab lm-eval [run] --model biaslab --tasks TASK [TASK ...]
       --model_args pretrained=MODEL,neurons=FILE[,factor=FACTOR][,KEY=VALUE ...]
       [OPTION ...]

Run lm-evaluation-harness on a causal model with suppressed neurons. All options
are those of its own command: `biaslab lm-eval run --help` lists them. Needs
pip install 'biaslab[lm-eval]'.

Releases of lm_eval that load models of other packages by their entry points
(group lm_eval.models) find it too: lm_eval --model biaslab … . Version 0.4.13
does not. From Python, import biaslab.lm_eval, then
lm_eval.simple_evaluate(model="biaslab", model_args=…).

model_args:
  pretrained=MODEL        an asset's name, a folder, or a hub id
  neurons=FILE            a neuron file, made for the model's very weights
  factor=FACTOR           what the neurons are multiplied by: 0 suppresses, 1
                          leaves the model untouched (default: 0)
  positions=all           the only choice: whole texts are scored
  dtype=DTYPE             of the weights (default: auto, the checkpoint's own)
  device_map=auto         for a model that one device has no room for
  trust_remote_code=True  let a checkpoint bring its own Python code
  max_length, softmax_dtype, logits_cache, chat_template_args, …
                          as lm_eval's model hf has them

A file of --use_cache knows requests, not models: give each neuron file and
factor one of its own."""


def lm_eval(arguments: list[str]) -> None:
    """Run lm-evaluation-harness's own command with these arguments.

    Raises:
        InputError: if it is not installed, or a model's argument is not what is expected.
    """
    if arguments in ([], ["--help"], ["-h"]):
        print(_USAGE)
        return
    from biaslab.lm_eval import require_installed

    require_installed()
    from lm_eval.__main__ import cli_evaluate

    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
