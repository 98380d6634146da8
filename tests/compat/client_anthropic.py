"""The checks of Anthropic's own Python SDK; see checks.py."""

import anthropic

from checks import check, counted, expect, raised, run, three_requests_at

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

    def told(usage):
        # Tokens of the prompt that came from a cache, or went into it, are told apart from the others.
        cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
        return usage.input_tokens + cached, usage.output_tokens

    def streamed():
        with client.messages.stream(**ask) as stream:
            return stream.get_final_message()

    @check("usage as told: messages")
    def _():
        once = lambda: told(client.messages.create(**ask).usage)
        counted(arguments, arguments.model, "messages", once)

    @check("usage as told: messages, stream")
    def _():
        counted(arguments, arguments.model, "messages", lambda: told(streamed().usage))

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
