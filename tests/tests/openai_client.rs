//! A client that others wrote, async-openai, before the real programs.

#![allow(clippy::unwrap_used, reason = "in a test, whatever goes wrong fails the test")]

use async_openai::config::OpenAIConfig;
use async_openai::error::{ApiErrorResponse, OpenAIError};
use async_openai::types::chat::{
    ChatCompletionRequestUserMessage, CreateChatCompletionRequest, CreateChatCompletionRequestArgs,
    FinishReason,
};
use async_openai::types::embeddings::CreateEmbeddingRequestArgs;
use dynamo_tests::{Client, Program, SharedEtcd, eventually, lists, soon, unique};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rustix::process::Signal;

type OpenAi = async_openai::Client<OpenAIConfig>;

/// A frontend of a namespace of its own, and both kinds of client.
struct Stage {
    etcd: SharedEtcd,
    namespace: String,
    client: Client,
    openai: OpenAi,
    _frontend: Program,
}

impl Stage {
    async fn new() -> Self {
        let etcd = SharedEtcd::find().await;
        let namespace = unique("openai");
        let arguments = ["--namespace", &namespace];
        let (frontend, client) = Program::frontend(etcd.endpoints(), &arguments, &[]).await;
        let base = format!("{}/v1", client.base());
        let config = OpenAIConfig::new().with_api_base(base).with_api_key("any");
        let openai = OpenAi::with_config(config);
        Self { etcd, namespace, client, openai, _frontend: frontend }
    }

    /// Adds a worker with the model `m`, and returns when it is known.
    async fn worker(&self, echo_delay_ms: &str) -> Program {
        let of = ["--etcd-endpoints", self.etcd.endpoints(), "--namespace", &self.namespace];
        let serves = ["--echo", "--model", "m", "--echo-delay-ms", echo_delay_ms];
        let worker = Program::start("dynamo-worker", &[&of[..], &serves].concat(), &[]);
        lists(&self.client, &["m"]).await;
        worker
    }
}

fn ask(model: &str, text: &str) -> CreateChatCompletionRequest {
    CreateChatCompletionRequestArgs::default()
        .model(model)
        .messages([ChatCompletionRequestUserMessage::from(text).into()])
        .build()
        .unwrap()
}

/// What the API said; anything else is no refusal.
fn refused<T>(answer: Result<T, OpenAIError>) -> ApiErrorResponse {
    match answer {
        Err(OpenAIError::ApiError(error)) => error,
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was answered"),
    }
}

#[tokio::test]
async fn chats_streams_embeddings_and_models_are_what_the_client_expects() {
    let stage = Stage::new().await;
    let _worker = stage.worker("1").await;
    let openai = &stage.openai;

    let answer = soon("a chat", openai.chat().create(ask("m", "one two"))).await.unwrap();
    let choice = &answer.choices[0];
    assert_eq!(choice.message.content.as_deref(), Some("one two"));
    assert_eq!(choice.finish_reason, Some(FinishReason::Stop));
    assert_eq!(answer.usage.unwrap().total_tokens, 4);

    let stream = openai.chat().create_stream(ask("m", "one two")).await.unwrap();
    let chunks: Vec<_> = soon("a stream", stream.try_collect()).await.unwrap();
    let deltas = chunks.iter().flat_map(|chunk| &chunk.choices);
    let text: String = deltas.filter_map(|choice| choice.delta.content.as_deref()).collect();
    assert_eq!(text, "one two");

    let request =
        CreateEmbeddingRequestArgs::default().model("m").input(["a", "b"]).build().unwrap();
    let answer = soon("embeddings", openai.embeddings().create(request)).await.unwrap();
    let lengths: Vec<_> = answer.data.iter().map(|item| item.embedding.len()).collect();
    assert_eq!(lengths, [64, 64]);

    let listed = soon("the models", openai.models().list()).await.unwrap();
    assert_eq!(listed.data.iter().map(|model| &*model.id).collect::<Vec<_>>(), ["m"]);
    assert_eq!(soon("a model", openai.models().retrieve("m")).await.unwrap().id, "m");
}

#[tokio::test]
async fn an_unknown_model_is_an_error_of_the_api_with_its_code() {
    let stage = Stage::new().await;
    let _worker = stage.worker("1").await;
    let openai = &stage.openai;
    for error in [
        refused(soon("a chat", openai.chat().create(ask("n", "one"))).await),
        refused(soon("a stream", openai.chat().create_stream(ask("n", "one"))).await),
        refused(soon("a model", openai.models().retrieve("n")).await),
    ] {
        assert_eq!(error.status_code, 404);
        assert_eq!(error.api_error.code.as_deref(), Some("model_not_found"));
        assert_eq!(error.api_error.r#type.as_deref(), Some("invalid_request_error"));
    }
}

#[tokio::test]
async fn a_closed_route_is_asked_again_and_then_an_error_of_the_server() {
    let Stage { client, openai, .. } = &Stage::new().await;
    eventually("/ready", async || client.get("/ready").await.status == 200).await;
    let error = refused(soon("a chat", openai.chat().create(ask("m", "one"))).await);
    // Of a 5xx it keeps the whole body as the message, and reads no code.
    assert_eq!(error.status_code, 503);
    assert!(error.api_error.message.contains("endpoint_disabled"), "{error}");
    let asked = client.metric("dynamo_frontend_requests_total").await;
    assert!(asked > 1.0, "{asked} requests");
}

#[tokio::test]
async fn a_stream_whose_engine_is_killed_is_an_error_and_no_answer() {
    let stage = Stage::new().await;
    let worker = stage.worker("200").await;
    let openai = &stage.openai;
    let text = "one more word ".repeat(100);
    let mut stream = openai.chat().create_stream(ask("m", &text)).await.unwrap();
    for _ in 0..2 {
        soon("a chunk", stream.next()).await.unwrap().unwrap();
    }
    worker.signal(Signal::KILL);
    let end: Result<Vec<_>, _> = soon("the end", stream.try_collect()).await;
    let error = end.unwrap_err();
    assert!(error.to_string().contains("lost before the response was complete"), "{error}");
}
