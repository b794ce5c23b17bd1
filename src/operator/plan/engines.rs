//! What is known of each engine, as data: a new engine is a row, not a branch.

use crate::api::model_tier::EngineName;
use crate::routing::table::Continuation;

/// How to run one engine.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    /// Published image, pinned. `None`: the spec must name one.
    pub image: Option<&'static str>,
    /// Command, where the image's entrypoint cannot be relied on.
    pub command: &'static [&'static str],
    /// Arguments, with values of the spec in their places.
    pub args: &'static [Arg],
    /// Environment: what makes the engine run with a read-only root and an unnamed user.
    pub env: &'static [(&'static str, &'static str)],
    /// Environment that keeps the engine off the network, unless it has to download its model.
    pub offline_env: &'static [(&'static str, &'static str)],
    /// Environment with values of the spec, for args that the spec gives: `$(MODEL_PATH)`.
    pub value_env: &'static [(&'static str, Value)],
    /// Port of the OpenAI-compatible server.
    pub port: u16,
    /// Path that answers 200 once the model is loaded. `None`: the port accepts connections.
    pub health: Option<&'static str>,
    /// How it is asked to continue an answer. `None`: not known.
    pub continuation: Option<Continuation>,
    /// Whether it can ask the Hugging Face Hub for a revision, and takes no quantisation in a repository's name.
    pub hub_revisions: bool,
    /// Longest time to load a model, in seconds.
    pub startup_seconds: i32,
    /// Whether worker processes share memory through /dev/shm.
    pub shared_memory: bool,
}

/// One or two arguments.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// As it is.
    Literal(&'static str),
    /// A value of the spec, without a flag.
    Positional(Value),
    /// A flag and a value of the spec; left out when the spec has none.
    Flag(&'static str, Value),
}

/// A value of the spec.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// Path of the model in the container, or the repository to download it from.
    Model,
    /// Path of the model in the container; none where it is downloaded.
    ModelPath,
    /// Repository of the Hugging Face Hub to download it from.
    Repository,
    /// Revision of that repository, where declared.
    Revision,
    /// Name under which the model is served.
    ModelName,
    /// Port.
    Port,
    /// Context window of one request, in tokens.
    ContextTokens,
    /// Context window of one request times the requests worked on at a time, in tokens.
    TotalContextTokens,
    /// Requests worked on at a time, where declared.
    Concurrency,
}

/// Environment of engines that cache below the home folder and ask for the user's name.
const HOME: (&str, &str) = ("HOME", "/cache");
const USER: (&str, &str) = ("USER", "smallfirst");
const OFFLINE: (&str, &str) = ("HF_HUB_OFFLINE", "1");

const VLLM: Engine = Engine {
    image: Some("docker.io/vllm/vllm-openai:v0.18.0"),
    command: &["vllm", "serve"],
    args: &[
        Arg::Positional(Value::Model),
        Arg::Flag("--revision", Value::Revision),
        Arg::Flag("--served-model-name", Value::ModelName),
        Arg::Literal("--host"),
        Arg::Literal("0.0.0.0"),
        Arg::Flag("--port", Value::Port),
        Arg::Flag("--max-model-len", Value::ContextTokens),
        Arg::Flag("--max-num-seqs", Value::Concurrency),
    ],
    env: &[HOME, USER],
    offline_env: &[OFFLINE],
    value_env: &[],
    port: 8000,
    health: Some("/health"),
    continuation: Some(Continuation::ContinueFinalMessage),
    hub_revisions: true,
    startup_seconds: 1800,
    shared_memory: true,
};

const SGLANG: Engine = Engine {
    image: Some("docker.io/lmsysorg/sglang:v0.5.18"),
    command: &["python3", "-m", "sglang.launch_server"],
    args: &[
        Arg::Flag("--model-path", Value::Model),
        Arg::Flag("--revision", Value::Revision),
        Arg::Flag("--served-model-name", Value::ModelName),
        Arg::Literal("--host"),
        Arg::Literal("0.0.0.0"),
        Arg::Flag("--port", Value::Port),
        Arg::Flag("--context-length", Value::ContextTokens),
        Arg::Flag("--max-running-requests", Value::Concurrency),
    ],
    env: &[HOME, USER],
    offline_env: &[OFFLINE],
    value_env: &[],
    port: 30000,
    health: Some("/health"),
    continuation: Some(Continuation::ContinueFinalMessage),
    hub_revisions: true,
    startup_seconds: 1800,
    shared_memory: true,
};

const LLAMA_CPP: Engine = Engine {
    image: Some("ghcr.io/ggml-org/llama.cpp:server-b10290"),
    // The image's entrypoint is the server.
    command: &[],
    args: &[
        Arg::Flag("--model", Value::ModelPath),
        Arg::Flag("--hf-repo", Value::Repository),
        Arg::Flag("--alias", Value::ModelName),
        Arg::Literal("--host"),
        Arg::Literal("0.0.0.0"),
        Arg::Flag("--port", Value::Port),
        // The context is split evenly over the parallel slots.
        Arg::Flag("--ctx-size", Value::TotalContextTokens),
        Arg::Flag("--parallel", Value::Concurrency),
    ],
    env: &[HOME],
    offline_env: &[],
    value_env: &[],
    port: 8080,
    health: Some("/health"),
    continuation: Some(Continuation::Prefill),
    hub_revisions: false,
    startup_seconds: 600,
    shared_memory: false,
};

/// The spec's args say how; they may use `$(MODEL_PATH)`, `$(MODEL_REVISION)`, `$(MODEL_NAME)` and `$(PORT)`.
const CUSTOM: Engine = Engine {
    image: None,
    command: &[],
    args: &[],
    env: &[HOME],
    offline_env: &[],
    value_env: &[
        ("MODEL_PATH", Value::Model),
        ("MODEL_REVISION", Value::Revision),
        ("MODEL_NAME", Value::ModelName),
        ("PORT", Value::Port),
    ],
    port: 8080,
    health: None,
    continuation: None,
    hub_revisions: true,
    startup_seconds: 1800,
    shared_memory: true,
};

/// What is known of an engine.
#[must_use]
pub const fn of(name: EngineName) -> &'static Engine {
    match name {
        EngineName::Vllm => &VLLM,
        EngineName::SgLang => &SGLANG,
        EngineName::LlamaCpp => &LLAMA_CPP,
        EngineName::Custom => &CUSTOM,
    }
}
