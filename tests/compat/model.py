"""Makes a tiny llama model with random weights as a GGUF file: `model.py FILE`.

A byte-level tokenizer of 259 tokens, 2 layers, 64 dimensions: it says nothing that makes sense,
but it says it in 0.1 s, and no model has to be downloaded.
"""

import sys

import gguf
import numpy as np

CONTEXT = 2048
LAYERS, WIDTH, HEADS, FEED_FORWARD = 2, 64, 4, 128


def tokens():
    """The names of the 256 bytes as GPT-2's tokenizer writes them, then three of control."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + place) for place, byte in enumerate(shifted)
    }
    text = [names[byte] for byte in range(256)]
    control = ["<|begin|>", "<|end|>", "<|pad|>"]
    normal, special = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    return text + control, [normal] * len(text) + [special] * len(control)


def main(path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)

    names, types = tokens()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(names)
    writer.add_token_types(types)
    # A tokenizer of this kind needs one merge; this one hardly ever applies.
    writer.add_token_merges([f"{names[0]} {names[1]}"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_pad_token_id(258)
    writer.add_add_bos_token(True)
    writer.add_chat_template(
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )

    random = np.random.default_rng(0)

    def add(name, *shape):
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))

    def ones(name):
        writer.add_tensor(name, np.ones(WIDTH, np.float32))

    add("token_embd.weight", len(names), WIDTH)
    add("output.weight", len(names), WIDTH)
    ones("output_norm.weight")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        ones(f"{block}.ffn_norm.weight")
        for projection in ("q", "k", "v", "output"):
            add(f"{block}.attn_{projection}.weight", WIDTH, WIDTH)
        add(f"{block}.ffn_gate.weight", FEED_FORWARD, WIDTH)
        add(f"{block}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"{block}.ffn_down.weight", WIDTH, FEED_FORWARD)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
