"""The checks of aichat, a program for the terminal; see checks.py. It never asks again."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

from checks import check, expect, requests_at, run


def aichat(arguments, model, *flags, text="hello", base=None, key=None):
    """Runs it for one answer, with nothing but this model in its configuration."""
    client = {
        "type": "openai-compatible",
        "name": "here",
        "api_base": f"{base or arguments.base}/v1",
        "api_key": key or arguments.key,
        "models": [{"name": model, "max_output_tokens": 8, "require_max_tokens": True}],
    }
    with tempfile.TemporaryDirectory() as folder:
        # It fails where an answer is empty, which one at random may be.
        config = {"model": f"here:{model}", "temperature": 0, "save": False, "clients": [client]}
        # All JSON is YAML.
        Path(folder, "config.yaml").write_text(json.dumps(config))
        return subprocess.run(
            [arguments.program, *flags, text],
            env=os.environ | {"AICHAT_CONFIG_DIR": folder},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
        )


def expect_answer(ended):
    expect(ended.returncode == 0 and ended.stdout, ended)


def expect_failure(ended, *words):
    """It shows the error's message, and not the status."""
    expect(ended.returncode == 1, ended)
    expect(not words or any(word in ended.stderr for word in words), ended)


def engine(arguments):
    @check("chat")
    def _():
        expect_answer(aichat(arguments, arguments.model, "--no-stream"))

    @check("stream")
    def _():
        expect_answer(aichat(arguments, arguments.model))

    @check("400 of the engine")
    def _():
        expect_failure(aichat(arguments, arguments.model, text="too long " * 5000), "context")

    @check("401 of the engine")
    def _():
        ended = aichat(arguments, arguments.model, key="wrong")
        # llama.cpp's words, and vLLM's.
        expect_failure(ended, "Invalid API Key", "Unauthorized")


def errors(arguments):
    @check("404, unknown model")
    def _():
        expect_failure(aichat(arguments, "nobody"), "'nobody' does not exist")

    @check("503, closed route, asked once")
    def _():
        before = requests_at(arguments.closed)
        expect_failure(aichat(arguments, "any", base=arguments.closed), "No model is currently")
        made = requests_at(arguments.closed) - before
        expect(made == 1, f"{made} requests")

    @check("broken stream raises")
    def _():
        # Without our message: it passes over an error event, and notices the cut.
        expect_failure(aichat(arguments, "breaks"))

    @check("broken answer raises")
    def _():
        expect_failure(aichat(arguments, "breaks", "--no-stream"))


if __name__ == "__main__":
    run(engine, errors)
