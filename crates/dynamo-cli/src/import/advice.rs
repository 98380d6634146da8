//! What is said of fields that have no counterpart: the reason, and what to do instead.

/// A field, and what is said of it.
type Advice = (&'static [&'static str], &'static str);

/// Fields of `litellm_params`.
const OF_DEPLOYMENT: &[Advice] = &[
    (
        &["rpm", "tpm", "max_parallel_requests"],
        "servers have no limits of their own here: give each key its limits in `keys`, and all \
         servers one with `worker_concurrency`",
    ),
    (
        &["timeout", "stream_timeout", "max_retries", "num_retries", "cooldown_time"],
        "no model has times or retries of its own here: set `first_byte_timeout`, \
         `stream_idle_timeout` and `retry_budget` for all",
    ),
    (
        &["input_cost_per_token", "output_cost_per_token", "cost_per_second"],
        "nothing is priced here: the access log and the metrics have the tokens of each request",
    ),
    (
        &[
            "temperature",
            "top_p",
            "top_k",
            "max_tokens",
            "max_completion_tokens",
            "seed",
            "stop",
            "extra_body",
            "frequency_penalty",
            "presence_penalty",
            "response_format",
            "tools",
            "stream",
        ],
        "bodies go through as they are, but for the name: let the client send it, or make it the \
         engine's default",
    ),
    (
        &["extra_headers", "headers", "organization", "default_headers"],
        "the client's headers are passed on and none is added: let the client send it",
    ),
    (&["order"], "targets have shares and no order: use `fallback`"),
    (&["tags"], "requests have no tags here: use a name for each tag in `models`"),
];

/// Fields of `model_info`.
const OF_MODEL: &[Advice] = &[
    (&["id", "base_model"], "servers are told apart by their URLs; it is not needed"),
    (
        &["max_tokens", "max_input_tokens", "max_output_tokens"],
        "a model's context is read from the engine's list of models; nothing is to be done",
    ),
    (
        &["input_cost_per_token", "output_cost_per_token"],
        "nothing is priced here: the access log and the metrics have the tokens of each request",
    ),
    (
        &["access_groups", "team_id", "team_public_model_name"],
        "who may use a model is said by the key: `models` in an entry of `keys`",
    ),
];

/// Fields of `router_settings`, `litellm_settings` and `general_settings`.
const OF_SETTINGS: &[Advice] = &[
    (
        &["num_retries", "retry_policy", "retry_after", "max_fallbacks"],
        "there is no number of retries: `retry_budget` is the share of requests that may be sent \
         again, by default 20 percent",
    ),
    (
        &["stream_timeout"],
        "see `first_byte_timeout` and `stream_idle_timeout`, which hold for all models",
    ),
    (
        &["allowed_fails", "allowed_fails_policy", "cooldown_time", "disable_cooldowns"],
        "servers leave and enter rotation by their answers and by probes, without numbers to set: \
         see `panic_threshold` and `worker_probe_interval`",
    ),
    (
        &["content_policy_fallbacks"],
        "what a policy has refused is no reason to fall back here: let the client ask for another \
         model",
    ),
    (
        &["redis_host", "redis_port", "redis_password", "redis_url", "redis_db"],
        "frontends share nothing over Redis: `usage_store: etcd` has them count budgets together",
    ),
    (
        &["drop_params", "modify_params"],
        "bodies go through as they are: the engine says which parameters it does not take",
    ),
    (
        &["enable_pre_call_checks"],
        "prompts are not counted before they are sent: `on: [context_length]` falls back where the \
         engine finds one too long",
    ),
    (&["enable_tag_filtering"], "requests have no tags here: use a name for each tag in `models`"),
    (
        &["success_callback", "failure_callback", "callbacks", "service_callbacks"],
        "there are no callbacks: use `access_log`, `/metrics`, and traces \
         (OTEL_EXPORTER_OTLP_ENDPOINT)",
    ),
    (
        &["cache", "cache_params"],
        "answers are not cached: `router_mode: cache-aware` uses the prefix caches of the engines",
    ),
    (&["set_verbose", "debug"], "set `log: debug` or the variable DYN_LOG"),
    (
        &["max_parallel_requests", "global_max_parallel_requests"],
        "see `worker_concurrency`, `max_connections`, and `concurrent` in `keys`",
    ),
    (
        &[
            "max_budget",
            "budget_duration",
            "max_internal_user_budget",
            "default_internal_user_params",
        ],
        "budgets are tokens and belong to keys: `tokens_per_day` and `tokens_per_month` in `keys`",
    ),
    (
        &["background_health_checks", "health_check_interval"],
        "servers are probed anyway: see `worker_probe_interval`",
    ),
    (
        &["alerting", "alerting_threshold", "slack_webhook_url"],
        "let Prometheus alert on `/metrics`",
    ),
    (
        &["store_model_in_db", "database_connection_pool_limit", "database_connection_timeout"],
        "there is no database: models are in this file, or register by themselves with \
         `dynamo-worker`",
    ),
];

/// What is said of fields that this page does not name.
const UNKNOWN: &str = "the translation does not know this field: look for a counterpart in the \
                       reference of the configuration file";

/// The parts of a file that have fields with advice.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Deployment,
    Model,
    Settings,
}

/// What is said of a field.
pub(super) fn of(part: Part, field: &str) -> &'static str {
    let all = match part {
        Part::Deployment => OF_DEPLOYMENT,
        Part::Model => OF_MODEL,
        Part::Settings => OF_SETTINGS,
    };
    all.iter().find(|(fields, _)| fields.contains(&field)).map_or(UNKNOWN, |(_, advice)| advice)
}
