"""Writes the tiny model as Hugging Face's libraries read it: `model_hf.py FOLDER`; see tiny.py."""

import json
import sys
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import tiny

NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "norm": "model.norm.weight",
    "attention_norm": "model.layers.{}.input_layernorm.weight",
    "feed_forward_norm": "model.layers.{}.post_attention_layernorm.weight",
    "query": "model.layers.{}.self_attn.q_proj.weight",
    "key": "model.layers.{}.self_attn.k_proj.weight",
    "value": "model.layers.{}.self_attn.v_proj.weight",
    "output": "model.layers.{}.self_attn.o_proj.weight",
    "gate": "model.layers.{}.mlp.gate_proj.weight",
    "up": "model.layers.{}.mlp.up_proj.weight",
    "down": "model.layers.{}.mlp.down_proj.weight",
}

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "float32",
    "vocab_size": 256 + len(tiny.CONTROL),
    "max_position_embeddings": tiny.CONTEXT,
    "hidden_size": tiny.WIDTH,
    "intermediate_size": tiny.FEED_FORWARD,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": tiny.HEADS,
    "num_key_value_heads": tiny.HEADS,
    "rms_norm_eps": tiny.EPSILON,
    "rope_theta": tiny.ROPE_BASE,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": tiny.BEGIN,
    "eos_token_id": tiny.END,
    "pad_token_id": tiny.PAD,
}

TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": tiny.CONTEXT,
    "bos_token": tiny.CONTROL[0],
    "eos_token": tiny.CONTROL[1],
    "pad_token": tiny.CONTROL[2],
    "chat_template": tiny.TEMPLATE,
}


def tokenizer():
    vocabulary = {name: place for place, name in enumerate(tiny.byte_names())}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in tiny.CONTROL])
    return made


def main(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    tensors = dict(tiny.weights(NAMES))
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})


if __name__ == "__main__":
    main(sys.argv[1])
