"""What the scripts of all clients share: they run checks one by one, each printed as a line of JSON.

`SCRIPT --base URL --key KEY` and then `--model M [--embedding-model E]`, for what a client does with
an engine, `--twins M --in-turn URL`, for a model that two engines serve, by a second front door in
turns, `--model M --worker PID`, for what becomes of it when the engine's worker is told to end,
or `--closed URL`, for what it does with errors. `--closed` is a front door without any model,
`--program FILE` the client where it is a program.
"""

import argparse
import json
import re
import time
import urllib.request


def run(engine, errors, drain=None, twins=None):
    """Runs the checks that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--program")
    parser.add_argument("--model")
    parser.add_argument("--embedding-model")
    parser.add_argument("--worker", type=int)
    parser.add_argument("--twins")
    parser.add_argument("--in-turn")
    parser.add_argument("--closed")
    arguments = parser.parse_args()
    if arguments.worker:
        drain(arguments)
    elif arguments.model:
        engine(arguments)
    if arguments.twins:
        twins(arguments)
    if arguments.closed:
        errors(arguments)


def check(name):
    """Runs what it decorates, at once: it passes unless it raises."""

    def decorate(function):
        try:
            function()
            print(json.dumps({"check": name, "ok": True}), flush=True)
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            print(json.dumps({"check": name, "ok": False, "detail": detail}), flush=True)
        return function

    return decorate


def expect(holds, what):
    """`assert`, but never optimised away."""
    if not holds:
        raise AssertionError(what)


def raised(function):
    """The exception that the function raises."""
    try:
        result = function()
    except Exception as error:
        return error
    raise AssertionError(f"no exception, but {result!r:.200}")


def counted(arguments, model, endpoint, ask):
    """Expects that the front door counts the usage that an answer told its client.

    `ask` makes one request, and returns the tokens of the prompt and of the answer that it was told.
    """
    label = f'endpoint="{endpoint}",model="{model}"'
    names = ["input_tokens_total", "output_tokens_total", "estimated_output_tokens_total"]

    def counts():
        # Each other request has ended, so only this one counts.
        text = page(arguments.base)
        sums = [
            sum(map(int, re.findall(rf"^dynamo_frontend_{name}{{{label},.*}} (\d+)$", text, re.M)))
            for name in names
        ]
        busy = re.findall(rf"^dynamo_frontend_inflight_requests{{{label}}} (\d+)$", text, re.M)
        return sums if not any(map(int, busy)) else None

    def settled(unlike=None):
        deadline = time.monotonic() + 30
        while True:
            seen = counts()
            if seen is not None and seen != unlike:
                return seen
            expect(time.monotonic() < deadline, f"{seen} for {label}")
            time.sleep(0.05)

    before = settled()
    told = [*ask(), 0]
    made = [after - was for after, was in zip(settled(unlike=before), before)]
    expect(made == told, f"counted {made}, told {told}")


def page(base):
    with urllib.request.urlopen(f"{base}/metrics") as answer:
        return answer.read().decode()


def requests_at(base):
    """How many requests a front door has answered so far."""
    text = page(base)
    counts = re.findall(r"^dynamo_frontend_requests_total\{.*\} (\d+)$", text, re.MULTILINE)
    return sum(map(int, counts))


def three_requests_at(base, function):
    """Expects that the function asks three times, in vain; returns what it raised."""
    before = requests_at(base)
    error = raised(function)
    made = requests_at(base) - before
    expect(made == 3, f"{made} requests")
    return error
