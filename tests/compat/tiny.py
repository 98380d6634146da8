"""The tiny llama model that engines serve: its shape, its vocabulary, its random weights.

A byte-level tokenizer of 259 tokens, 2 layers, 128 dimensions: it says nothing that makes sense,
but it is made in 0.1 s, and no model has to be downloaded.
"""

import numpy as np

CONTEXT = 2048
# vLLM's kernels for the CPU know heads of 32 dimensions and more.
LAYERS, WIDTH, HEADS, FEED_FORWARD = 2, 128, 4, 256
EPSILON, ROPE_BASE = 1e-5, 10000.0

CONTROL = ["<|begin|>", "<|end|>", "<|pad|>"]
BEGIN, END, PAD = 256, 257, 258

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def byte_names():
    """The names of the 256 bytes as GPT-2's tokenizer writes them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = [byte for byte in range(256) if byte not in plain]
    names = {byte: chr(byte) for byte in plain} | {
        byte: chr(256 + place) for place, byte in enumerate(shifted)
    }
    return [names[byte] for byte in range(256)]


def weights(names):
    """Each tensor, by what `names` calls it; `{}` in a name is the layer."""
    random = np.random.default_rng(0)
    vocabulary = 256 + len(CONTROL)
    shapes = {
        "embedding": (vocabulary, WIDTH),
        "head": (vocabulary, WIDTH),
        "norm": (WIDTH,),
        "attention_norm": (WIDTH,),
        "feed_forward_norm": (WIDTH,),
        "query": (WIDTH, WIDTH),
        "key": (WIDTH, WIDTH),
        "value": (WIDTH, WIDTH),
        "output": (WIDTH, WIDTH),
        "gate": (FEED_FORWARD, WIDTH),
        "up": (FEED_FORWARD, WIDTH),
        "down": (WIDTH, FEED_FORWARD),
    }
    for part, shape in shapes.items():
        name = names[part]
        for layer in range(LAYERS if "{}" in name else 1):
            norm = len(shape) == 1
            tensor = np.ones(shape) if norm else random.normal(0, 0.1, shape)
            yield name.format(layer), tensor.astype(np.float32)
