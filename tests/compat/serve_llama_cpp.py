"""llama.cpp's HTTP server by the wheel `xllamacpp`; see serving.py."""

import signal

import xllamacpp

import serving


def main(arguments):
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.model_alias = {arguments.name}
    params.hostnames = ["127.0.0.1"]
    params.port = int(arguments.port)
    params.api_keys = [arguments.key]
    params.embedding = arguments.embeddings
    if arguments.embeddings:
        # By itself it pools nothing, and refuses then to answer as OpenAI does.
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    # Four chats fit, each with the model's context. With three, pooling fails an assertion.
    params.n_parallel = 4
    params.n_ctx = 8192
    # More threads than free cores would spin.
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(f"llama.cpp listens at {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(serving.arguments())
