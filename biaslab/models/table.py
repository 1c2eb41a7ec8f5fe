"""The table of supported architectures, one line per model type. Does not need torch."""

from typing import NamedTuple


class Architecture(NamedTuple):
    """Where a model has its feed-forward neurons (module paths), its kind, and its other properties."""

    ffn: str  # path of the FFN down-projection under ``model.base_model``, with ``{}`` for the layer
    attention: str  # path of the attention within the layer
    masked: bool = False  # masked language model, otherwise causal
    query: str = ""  # masked: path of the query projection in the attention, if queries depend on their token only
    output: str = ""  # masked: path of the output projection in the attention
    keys: bool = True  # causal: attention uses transformers' AttentionInterface, which accepts given keys
    own_mask: bool = True  # causal: accepts any 4-D mask and any position ids
    joined: bool = False  # the FFN merges the batch and sequence axes
    replay: bool = True  # attribution can restart from any layer; otherwise it runs whole forward passes


# Full paths, not suffixes: "output.dense" also names BERT's attention output.
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
    "nystromformer": _BERT._replace(query=""),  # its landmarks are means of queries
    "modernbert": Architecture("layers.{}.mlp.Wo", "attn", True, "", "Wo"),
    "eurobert": _LLAMA._replace(masked=True, query="q_proj", output="o_proj"),
    "roc_bert": _BERT,
    "convbert": _BERT._replace(query=""),  # its kernels depend on queries
    "deberta": _BERT._replace(query=""),  # one projection for queries, keys and values
    "deberta-v2": _BERT._replace(query=""),  # the projection also serves relative positions
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
    "gemma4_text": _LLAMA._replace(keys=False, replay=False),  # its layers have additional per-token inputs
    "qwen3_5_text": _LLAMA._replace(keys=False, own_mask=False, replay=False),  # some layers use a recurrence
    "bloom": Architecture("h.{}.mlp.dense_4h_to_h", "self_attention", keys=False, own_mask=False),
    "falcon": Architecture("h.{}.mlp.dense_4h_to_h", "self_attention", keys=False, own_mask=False),
    "gptj": Architecture("h.{}.mlp.fc_out", "attn", keys=False),
    "codegen": Architecture("h.{}.mlp.fc_out", "attn", keys=False),
    "gpt_neo": Architecture("h.{}.mlp.c_proj", "attn", keys=False),
    "diffllama": _LLAMA._replace(keys=False),  # its attention uses other values than it caches
    "mpt": Architecture("blocks.{}.ffn.down_proj", "attn", keys=False, own_mask=False),
}
EXPERTS = "it is a mixture of experts: (layer, index) does not identify a neuron, and only some experts process a token"
_SEQUENCES = "it is an encoder-decoder, neither a masked nor a causal language model"
_STATES = "not all of its layers are attention followed by a feed-forward layer"
_PICTURES = "it also takes images or audio; its text-only variant, if any, may be supported"
_REFUSED = {
    "its layers share one set of weights: a neuron cannot be suppressed in a single layer": "albert",
    EXPERTS: "mixtral qwen2_moe qwen3_moe gpt_oss olmoe phimoe granitemoe deepseek_v2 deepseek_v3 glm4_moe jetmoe "
    "dbrx llama4_text ernie4_5_moe hunyuan_v1_moe minimax_m2",
    _SEQUENCES: "t5 mt5 umt5 bart mbart pegasus m2m_100 marian t5gemma led",
    _STATES: "mamba mamba2 jamba bamba rwkv recurrent_gemma falcon_mamba lfm2 zamba2",
    _PICTURES: "gemma3 gemma3n gemma4 llava mistral3 llama4 qwen2_vl qwen2_5_vl qwen3_vl qwen3_5",
}
REFUSED = {kind: why for why, kinds in _REFUSED.items() for kind in kinds.split()}
