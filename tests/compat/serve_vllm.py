"""vLLM's own API server on the CPU; see serving.py."""

import os
import sys
from pathlib import Path

import serving


def main(arguments):
    program = str(Path(sys.executable).with_name("vllm"))
    command = [program, "serve", arguments.model, "--served-model-name", arguments.name]
    command += ["--host", "127.0.0.1", "--port", arguments.port, "--api-key", arguments.key]
    # Compiling takes longer than all that is asked of it here.
    command += ["--dtype", "float32", "--enforce-eager"]
    # Without it, streams that are open at SIGTERM fall silent for as long as their clients wait.
    command += ["--shutdown-timeout", "60"]
    # It tells cached tokens only with this.
    command += ["--enable-prompt-tokens-details"]
    if arguments.embeddings:
        command += ["--runner", "pooling"]
    environment = {
        # In GiB; by itself it takes most of what the machine has.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # More threads than free cores would spin, and two engines would be bound to the same.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        # Its processes talk to each other where nobody else hears them, and it to nobody outside.
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    os.execve(program, command, os.environ | environment)


if __name__ == "__main__":
    main(serving.arguments())
