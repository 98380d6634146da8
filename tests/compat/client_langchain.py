"""The checks of langchain-openai; see checks.py."""

import httpx
import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from checks import check, expect, raised, run, three_requests_at


def chat(arguments, model, base=None, **options):
    http = httpx.Client(trust_env=False, timeout=60)
    options = {"api_key": arguments.key, "http_client": http} | options
    return ChatOpenAI(model=model, base_url=f"{base or arguments.base}/v1", **options)


def engine(arguments):
    model = chat(arguments, arguments.model, max_tokens=8)

    @check("chat")
    def _():
        answer = model.invoke("hello")
        expect(answer.usage_metadata["output_tokens"] > 0, answer)

    @check("stream")
    def _():
        pieces = list(model.stream("hello"))
        reasons = [piece.response_metadata.get("finish_reason") for piece in pieces]
        expect({"stop", "length"} & set(reasons), reasons)

    if arguments.embedding_model:

        @check("embeddings")
        def _():
            embeddings = OpenAIEmbeddings(
                model=arguments.embedding_model,
                base_url=f"{arguments.base}/v1",
                api_key=arguments.key,
                # Its tokenizer would have to be downloaded.
                check_embedding_ctx_length=False,
                http_client=httpx.Client(trust_env=False),
            )
            expect(len(embeddings.embed_documents(["one", "two"])) == 2, "not two")

    @check("400 of the engine")
    def _():
        error = raised(lambda: model.invoke("too long " * 5000))
        expect(isinstance(error, openai.BadRequestError), repr(error))

    @check("401 of the engine")
    def _():
        error = raised(lambda: chat(arguments, arguments.model, api_key="wrong").invoke("hello"))
        expect(isinstance(error, openai.AuthenticationError), repr(error))


def errors(arguments):
    @check("404, unknown model")
    def _():
        error = raised(lambda: chat(arguments, "nobody").invoke("hello"))
        expect(isinstance(error, openai.NotFoundError), repr(error))

    @check("503, closed route, asked 3 times")
    def _():
        closed = chat(arguments, "any", arguments.closed)
        error = three_requests_at(arguments.closed, lambda: closed.invoke("hello"))
        expect(isinstance(error, openai.InternalServerError), repr(error))

    @check("503 of the engine, asked until it answers")
    def _():
        expect(chat(arguments, "busy").invoke("hello").content == "at last", "another answer")

    @check("broken stream raises")
    def _():
        error = raised(lambda: list(chat(arguments, "breaks").stream("hello")))
        expect("lost" in str(error), repr(error))


if __name__ == "__main__":
    run(engine, errors)
