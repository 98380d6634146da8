"""Writes the tiny model as llama.cpp reads it: `model_gguf.py FILE`; see tiny.py."""

import sys

import gguf

import tiny

NAMES = {
    "embedding": "token_embd.weight",
    "head": "output.weight",
    "norm": "output_norm.weight",
    "attention_norm": "blk.{}.attn_norm.weight",
    "feed_forward_norm": "blk.{}.ffn_norm.weight",
    "query": "blk.{}.attn_q.weight",
    "key": "blk.{}.attn_k.weight",
    "value": "blk.{}.attn_v.weight",
    "output": "blk.{}.attn_output.weight",
    "gate": "blk.{}.ffn_gate.weight",
    "up": "blk.{}.ffn_up.weight",
    "down": "blk.{}.ffn_down.weight",
}


def main(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(tiny.CONTEXT)
    writer.add_embedding_length(tiny.WIDTH)
    writer.add_block_count(tiny.LAYERS)
    writer.add_feed_forward_length(tiny.FEED_FORWARD)
    writer.add_head_count(tiny.HEADS)
    writer.add_head_count_kv(tiny.HEADS)
    writer.add_rope_dimension_count(tiny.WIDTH // tiny.HEADS)
    writer.add_rope_freq_base(tiny.ROPE_BASE)
    writer.add_layer_norm_rms_eps(tiny.EPSILON)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    bytes_ = tiny.byte_names()
    normal, special = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(bytes_ + tiny.CONTROL)
    writer.add_token_types([normal] * len(bytes_) + [special] * len(tiny.CONTROL))
    # A tokenizer of this kind needs one merge; this one hardly ever applies.
    writer.add_token_merges([f"{bytes_[0]} {bytes_[1]}"])
    writer.add_bos_token_id(tiny.BEGIN)
    writer.add_eos_token_id(tiny.END)
    writer.add_pad_token_id(tiny.PAD)
    writer.add_add_bos_token(True)
    writer.add_chat_template(tiny.TEMPLATE)

    for name, tensor in tiny.weights(NAMES):
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
