"""The checks of OpenAI's own Python SDK; see checks.py."""

import os
import signal
import time

import openai

from checks import check, counted, expect, raised, run, three_requests_at

HELLO = [{"role": "user", "content": "hello"}]


def sdk(arguments, base=None, **options):
    # One that the machine's proxy settings do not reach.
    http = openai.DefaultHttpxClient(trust_env=False)
    options = {"api_key": arguments.key, "http_client": http} | options
    return openai.OpenAI(base_url=f"{base or arguments.base}/v1", **options)


def engine(arguments):
    client = sdk(arguments)
    ask = {"model": arguments.model, "messages": HELLO, "max_tokens": 8}

    @check("models")
    def _():
        listed = [model.id for model in client.models.list()]
        expect(arguments.model in listed, listed)
        expect(client.models.retrieve(arguments.model).id == arguments.model, "another model")

    @check("chat")
    def _():
        answer = client.chat.completions.create(**ask)
        expect(answer.choices[0].message.role == "assistant", answer)
        expect(answer.usage.completion_tokens > 0, answer.usage)

    @check("stream")
    def _():
        chunks = list(
            client.chat.completions.create(
                **ask, stream=True, stream_options={"include_usage": True}
            )
        )
        reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
        expect(reasons[-1] in ("stop", "length"), reasons)
        expect(chunks[-1].usage and chunks[-1].usage.completion_tokens > 0, chunks[-1])

    @check("stream, left early")
    def _():
        with client.chat.completions.create(**ask | {"max_tokens": 1500}, stream=True) as stream:
            next(iter(stream))
        expect(client.chat.completions.create(**ask).choices, "no answer after that")

    @check("completions")
    def _():
        answer = client.completions.create(model=arguments.model, prompt="hello", max_tokens=8)
        expect(answer.choices[0].finish_reason in ("stop", "length"), answer)

    @check("completions, stream")
    def _():
        stream = client.completions.create(
            model=arguments.model, prompt="hello", max_tokens=8, stream=True
        )
        expect(list(stream)[-1].choices[0].finish_reason in ("stop", "length"), "no reason")

    @check("responses")
    def _():
        answer = client.responses.create(
            model=arguments.model, input="hello", max_output_tokens=8
        )
        expect(answer.object == "response" and answer.output, answer)

    @check("responses, stream")
    def _():
        events = client.responses.create(
            model=arguments.model, input="hello", max_output_tokens=8, stream=True
        )
        last = [event.type for event in events][-1]
        expect(last in ("response.completed", "response.incomplete"), last)

    if arguments.embedding_model:

        @check("embeddings")
        def _():
            texts = ["one", "two"]
            answer = client.embeddings.create(model=arguments.embedding_model, input=texts)
            expect([len(item.embedding) > 0 for item in answer.data] == [True, True], answer)

    usage(arguments)

    @check("400 of the engine")
    def _():
        long = [{"role": "user", "content": "too long " * 5000}]
        error = raised(lambda: client.chat.completions.create(**ask | {"messages": long}))
        expect(isinstance(error, openai.BadRequestError), repr(error))

    @check("401 of the engine")
    def _():
        wrong = sdk(arguments, api_key="wrong")
        error = raised(lambda: wrong.chat.completions.create(**ask))
        expect(isinstance(error, openai.AuthenticationError), repr(error))


def usage(arguments):
    """What the front door counts is what the engine told, on each route."""
    client = sdk(arguments)
    model = arguments.model
    chat = {"model": model, "messages": HELLO, "max_tokens": 8}
    text = {"model": model, "prompt": "hello", "max_tokens": 8}
    response = {"model": model, "input": "hello", "max_output_tokens": 8}
    asked = {"stream": True, "stream_options": {"include_usage": True}}

    def prompt(usage):
        return usage.prompt_tokens, usage.completion_tokens

    def inputs(usage):
        return usage.input_tokens, usage.output_tokens

    def last(stream):
        return [chunk.usage for chunk in stream if chunk.usage][-1]

    def ending(events):
        return list(events)[-1].response.usage

    def embedded():
        answer = client.embeddings.create(model=arguments.embedding_model, input=["one", "two"])
        return answer.usage.prompt_tokens, 0

    chats, texts, responses = client.chat.completions, client.completions, client.responses
    rows = [
        ("chat", "chat_completions", lambda: prompt(chats.create(**chat).usage)),
        ("chat, stream", "chat_completions", lambda: prompt(last(chats.create(**chat, **asked)))),
        ("completions", "completions", lambda: prompt(texts.create(**text).usage)),
        ("completions, stream", "completions", lambda: prompt(last(texts.create(**text, **asked)))),
        ("responses", "responses", lambda: inputs(responses.create(**response).usage)),
        (
            "responses, stream",
            "responses",
            lambda: inputs(ending(responses.create(**response, stream=True))),
        ),
    ]
    for name, endpoint, ask in rows:

        @check(f"usage as told: {name}")
        def _():
            counted(arguments, model, endpoint, ask)

    if arguments.embedding_model:

        @check("usage as told: embeddings")
        def _():
            counted(arguments, arguments.embedding_model, "embeddings", embedded)


def drain(arguments):
    # Without retries: nothing is to hide what happens to a request.
    client = sdk(arguments, max_retries=0)
    ask = {"model": arguments.model, "messages": HELLO}

    def reads_on():
        stream = client.chat.completions.create(
            **ask, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
        )
        with stream:
            yield from stream

    reader = reads_on()
    next(reader)
    os.kill(arguments.worker, signal.SIGTERM)
    told = time.monotonic()

    @check("drain: a new request gets an answer, and then 503 model_unavailable")
    def _():
        while time.monotonic() < told + 30:
            try:
                client.chat.completions.create(**ask, max_tokens=1)
            except openai.InternalServerError as error:
                expect(error.code == "model_unavailable", error.code)
                return
        raise AssertionError("still answered")

    @check("drain: the stream goes on to its end")
    def _():
        reasons = [chunk.choices[0].finish_reason for chunk in reader if chunk.choices]
        expect(reasons[-1] == "length", reasons[-1])

    print(f"note: the stream went on for {time.monotonic() - told:.1f} s", flush=True)


def cached_and_read(client, model, name):
    """Three conversations of three turns each, in turns; how many prompt tokens of all turns but the
    first ones were cached, and how many there were."""
    cached = read = 0
    # The model's context is short, and a token is a byte.
    chats = [
        [{"role": "system", "content": f"{name}{n}: answer in one word. " * 55}] for n in range(3)
    ]
    for turn in range(3):
        for chat in chats:
            chat.append({"role": "user", "content": f"Question {turn}?"})
            answer = client.chat.completions.create(model=model, messages=chat, max_tokens=4)
            if turn > 0:
                cached += answer.usage.prompt_tokens_details.cached_tokens
                read += answer.usage.prompt_tokens
            chat.append({"role": "assistant", "content": "Yes."})
    return cached, read


def twins(arguments):
    @check("two engines: a chat returns to its cache")
    def _():
        cached, read = cached_and_read(sdk(arguments), arguments.twins, "a")
        in_turn = cached_and_read(sdk(arguments, arguments.in_turn), arguments.twins, "b")
        print(f"note: cached {cached} of {read} tokens, in turn {in_turn[0]} of {in_turn[1]}")
        expect(cached > 0.8 * read, f"{cached} of {read}")
        expect(cached > in_turn[0], f"{cached}, and in turn {in_turn[0]}")


def errors(arguments):
    client = sdk(arguments)

    def chat(client, model, **options):
        return client.chat.completions.create(model=model, messages=HELLO, **options)

    @check("404, unknown model")
    def _():
        error = raised(lambda: chat(client, "nobody"))
        expect(isinstance(error, openai.NotFoundError), repr(error))
        expect(error.code == "model_not_found", error.code)

    @check("400, no model")
    def _():
        error = raised(lambda: chat(client, None))
        expect(isinstance(error, openai.BadRequestError), repr(error))

    @check("503, closed route, asked 3 times")
    def _():
        closed = sdk(arguments, arguments.closed)
        error = three_requests_at(arguments.closed, lambda: chat(closed, "any"))
        expect(isinstance(error, openai.InternalServerError), repr(error))
        expect((error.status_code, error.code) == (503, "endpoint_disabled"), repr(error))

    @check("503 of the engine, asked until it answers")
    def _():
        expect(chat(client, "busy").choices[0].message.content == "at last", "another answer")

    @check("broken stream raises")
    def _():
        error = raised(lambda: list(chat(client, "breaks", stream=True)))
        expect(isinstance(error, openai.APIError), repr(error))
        expect("lost" in str(error), repr(error))

    @check("broken answer raises")
    def _():
        once = sdk(arguments, max_retries=0)
        error = raised(lambda: chat(once, "breaks"))
        expect(isinstance(error, openai.APIError), repr(error))


if __name__ == "__main__":
    run(engine, errors, drain, twins)
