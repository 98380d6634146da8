"""What the scripts share that install what pip alone would not; they get the packages' names."""

import os
import subprocess
import sys


def pip(*arguments, environment=None):
    """Runs `pip install`, and ends with it where it fails: its last line says why."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--prefer-binary", *arguments]
    failed = subprocess.run(command, env=environment or os.environ).returncode
    if failed:
        sys.exit(failed)
