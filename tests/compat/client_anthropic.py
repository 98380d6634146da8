"""The checks of Anthropic's own Python SDK; see checks.py."""

import anthropic

from checks import check, expect, raised, run, three_requests_at

HELLO = [{"role": "user", "content": "hello"}]


def sdk(arguments, base=None, **options):
    http = anthropic.DefaultHttpxClient(trust_env=False)
    # Engines look for a bearer, as OpenAI's clients send it.
    options = {"auth_token": arguments.key, "http_client": http} | options
    return anthropic.Anthropic(base_url=base or arguments.base, api_key=None, **options)


def engine(arguments):
    client = sdk(arguments)
    ask = {"model": arguments.model, "messages": HELLO, "max_tokens": 8}

    @check("messages")
    def _():
        answer = client.messages.create(**ask)
        expect(answer.stop_reason in ("end_turn", "max_tokens"), answer)
        expect(answer.usage.output_tokens > 0, answer)

    @check("messages, stream")
    def _():
        with client.messages.stream(**ask) as stream:
            events = [event.type for event in stream]
        expect(events[-1] == "message_stop", events)

    @check("401 of the engine")
    def _():
        error = raised(lambda: sdk(arguments, auth_token="wrong").messages.create(**ask))
        expect(isinstance(error, anthropic.AuthenticationError), repr(error))


def errors(arguments):
    client = sdk(arguments)

    def ask(client, model, **options):
        return client.messages.create(model=model, messages=HELLO, max_tokens=8, **options)

    @check("404, unknown model")
    def _():
        error = raised(lambda: ask(client, "nobody"))
        expect(isinstance(error, anthropic.NotFoundError), repr(error))

    @check("503, closed route, asked 3 times")
    def _():
        closed = sdk(arguments, arguments.closed)
        error = three_requests_at(arguments.closed, lambda: ask(closed, "any"))
        expect(isinstance(error, anthropic.APIStatusError), repr(error))
        expect(error.status_code == 503, repr(error))

    @check("broken stream raises")
    def _():
        error = raised(lambda: list(ask(client, "breaks", stream=True)))
        expect("lost" in str(error), repr(error))


if __name__ == "__main__":
    run(engine, errors)
