"""The table of supported architectures: a line a type. Nothing here needs torch."""

from typing import NamedTuple


class Architecture(NamedTuple):
    """Where a model keeps its feed-forward neurons (paths of modules), which kind it is, and what else it allows."""

    ffn: str  # of a layer's FFN down-projection under ``model.base_model``, with ``{}`` for the layer
    attention: str  # of its attention, within the layer
    masked: bool = False  # whether it is a masked language model, not a causal one
    query: str = ""  # of a masked one's query projection within the attention, where each token's query is its own
    output: str = ""  # of a masked one's output projection within the attention
    keys: bool = True  # whether a causal one attends by transformers' AttentionInterface, which can be handed its keys
    own_mask: bool = True  # whether a causal one takes any 4-D mask and any position of a token
    joined: bool = False  # whether its FFN joins sequences and tokens to one axis
    replay: bool = True  # whether attribution can go on from any layer; else it runs whole forward passes


# Full paths, never suffixes: "output.dense" also names BERT's attention output.
_BERT = Architecture("encoder.layer.{}.output.dense", "attention", True, "self.query", "output.dense")
_DISTILBERT = Architecture("transformer.layer.{}.ffn.lin2", "attention", True, "q_lin", "out_lin")
_GPT2 = Architecture("h.{}.mlp.c_proj", "attn")
_LLAMA = Architecture("layers.{}.mlp.down_proj", "self_attn")
_FC2 = Architecture("layers.{}.fc2", "self_attn")
_NEOX = Architecture("layers.{}.mlp.dense_4h_to_h", "attention")

ARCHITECTURES = {
    "bert": _BERT,
    "roberta": _BERT,
    "mpnet": _BERT._replace(query="attn.q", output="attn.o"),
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "xlm-roberta": _BERT,
    "xlm-roberta-xl": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "ernie": _BERT,
    "roberta-prelayernorm": _BERT,
    "megatron-bert": _BERT,
    "big_bird": _BERT,
    "roformer": _BERT,
    "rembert": _BERT,
    "nystromformer": _BERT._replace(query=""),  # landmarks are means of queries
    "modernbert": Architecture("layers.{}.mlp.Wo", "attn", True, "", "Wo"),
    "eurobert": _LLAMA._replace(masked=True, query="q_proj", output="o_proj"),
    "roc_bert": _BERT,
    "convbert": _BERT._replace(query=""),  # its kernels are made of queries
    "deberta": _BERT._replace(query=""),  # one projection of queries, keys and values
    "deberta-v2": _BERT._replace(query=""),  # which also projects the relative positions
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma2": _LLAMA,
    "gpt_neox": _NEOX,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": _LLAMA,
    "phi": _LLAMA._replace(ffn="layers.{}.mlp.fc2"),
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "cohere": _LLAMA,
    "cohere2": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "glm": _LLAMA,
    "glm4": _LLAMA,
    "arcee": _LLAMA,
    "exaone4": _LLAMA,
    "seed_oss": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "apertus": _LLAMA,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "helium": _LLAMA,
    "ernie4_5": _LLAMA,
    "persimmon": _LLAMA._replace(ffn="layers.{}.mlp.dense_4h_to_h"),
    "cwm": _LLAMA,
    "jais2": _LLAMA,
    "vaultgemma": _LLAMA,
    "starcoder2": _LLAMA._replace(ffn="layers.{}.mlp.c_proj"),
    "stablelm": _LLAMA,
    "nemotron": _LLAMA,
    "gpt_bigcode": _GPT2,
    "biogpt": _FC2,
    "opt": _FC2._replace(ffn="decoder.layers.{}.fc2", joined=True),
    "modernbert-decoder": Architecture("layers.{}.mlp.Wo", "attn"),
    "nanochat": _LLAMA._replace(ffn="layers.{}.mlp.fc2"),
    "ctrl": Architecture("h.{}.ffn.2", "multi_head_attention"),
    "gemma4_text": _LLAMA._replace(keys=False, replay=False),  # its layers get further inputs for each token
    "qwen3_5_text": _LLAMA._replace(keys=False, own_mask=False, replay=False),  # some attend by a recurrence
    "bloom": Architecture("h.{}.mlp.dense_4h_to_h", "self_attention", keys=False, own_mask=False),
    "falcon": Architecture("h.{}.mlp.dense_4h_to_h", "self_attention", keys=False, own_mask=False),
    "gptj": Architecture("h.{}.mlp.fc_out", "attn", keys=False),
    "codegen": Architecture("h.{}.mlp.fc_out", "attn", keys=False),
    "gpt_neo": Architecture("h.{}.mlp.c_proj", "attn", keys=False),
    "diffllama": _LLAMA._replace(keys=False),  # its attention asks for other values than it keeps
    "mpt": Architecture("blocks.{}.ffn.down_proj", "attn", keys=False, own_mask=False),
}
EXPERTS = "it is a mixture of experts: a feed-forward neuron is not (layer, index), and only some experts see a token"
_SEQUENCES = "it is an encoder-decoder, neither a masked nor a causal language model"
_STATES = "not all of its layers are attention followed by a feed-forward layer"
_PICTURES = "it reads pictures or sound, too; its text-only type, where it has one, may be supported"
_REFUSED = {
    "its layers share one set of weights: a neuron can't be suppressed in one layer alone": "albert",
    EXPERTS: "mixtral qwen2_moe qwen3_moe gpt_oss olmoe phimoe granitemoe deepseek_v2 deepseek_v3 glm4_moe jetmoe "
    "dbrx llama4_text ernie4_5_moe hunyuan_v1_moe minimax_m2",
    _SEQUENCES: "t5 mt5 umt5 bart mbart pegasus m2m_100 marian t5gemma led",
    _STATES: "mamba mamba2 jamba bamba rwkv recurrent_gemma falcon_mamba lfm2 zamba2",
    _PICTURES: "gemma3 gemma3n gemma4 llava mistral3 llama4 qwen2_vl qwen2_5_vl qwen3_vl qwen3_5",
}
REFUSED = {kind: why for why, kinds in _REFUSED.items() for kind in kinds.split()}
