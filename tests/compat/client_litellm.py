"""The checks of litellm; see checks.py."""

import litellm

from checks import check, expect, raised, run, three_requests_at

HELLO = [{"role": "user", "content": "hello"}]
litellm.suppress_debug_info = True


def place(arguments, base=None):
    return {"api_base": f"{base or arguments.base}/v1", "api_key": arguments.key}


def engine(arguments):
    ask = {"model": f"openai/{arguments.model}", "messages": HELLO, "max_tokens": 8}
    ask |= place(arguments)

    @check("chat")
    def _():
        expect(litellm.completion(**ask).usage.completion_tokens > 0, "no usage")

    @check("stream")
    def _():
        reasons = [c.choices[0].finish_reason for c in litellm.completion(**ask, stream=True)]
        expect(reasons[-1] in ("stop", "length"), reasons)

    if arguments.embedding_model:

        @check("embeddings")
        def _():
            answer = litellm.embedding(
                model=f"openai/{arguments.embedding_model}",
                input=["one", "two"],
                **place(arguments),
            )
            expect(len(answer.data) == 2, answer)

    @check("400 of the engine")
    def _():
        long = [{"role": "user", "content": "too long " * 5000}]
        error = raised(lambda: litellm.completion(**ask | {"messages": long}))
        expect(isinstance(error, litellm.BadRequestError), repr(error))

    @check("401 of the engine")
    def _():
        error = raised(lambda: litellm.completion(**ask | {"api_key": "wrong"}))
        expect(isinstance(error, litellm.AuthenticationError), repr(error))


def errors(arguments):
    def chat(model, base=None, **options):
        return litellm.completion(
            model=f"openai/{model}", messages=HELLO, **place(arguments, base), **options
        )

    @check("404, unknown model")
    def _():
        error = raised(lambda: chat("nobody"))
        expect(isinstance(error, litellm.NotFoundError), repr(error))

    @check("503, closed route, asked 3 times")
    def _():
        error = three_requests_at(arguments.closed, lambda: chat("any", arguments.closed))
        expect(isinstance(error, litellm.ServiceUnavailableError), repr(error))

    @check("503 of the engine, asked until it answers")
    def _():
        expect(chat("busy").choices[0].message.content == "at last", "another answer")

    @check("broken stream raises")
    def _():
        error = raised(lambda: list(chat("breaks", stream=True)))
        expect("lost" in str(error), repr(error))


if __name__ == "__main__":
    run(engine, errors)
