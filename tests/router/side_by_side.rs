//! The table of edits (`EDITS`), side by side: a client gets, byte for byte, what it would have had from the upstream itself,
//! whatever the router asked for besides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use smallfirst::router::answer::EDITS;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::fake_upstream::request;
use super::harness::{Harness, Reply, post, table};

/// How a server writes.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// `logprobs` and `usage` are null where there are none, as at OpenAI and vLLM; llama.cpp leaves them out.
    nulls: bool,
    /// With a space after commas and colons, as Python's `json.dumps` has it.
    spaced: bool,
}

/// What a request asks for.
struct Asked {
    logprobs: Option<usize>,
    usage: bool,
    choices: u64,
}

/// Texts that look like what is taken out.
const TOKENS: [&str; 5] = ["He", " said: \"logprobs\":{\"content\":[", "\\", ",\"usage\":null} \u{e9}\u{1F600}\n", "."];
/// Alternatives that the model knows to each token.
const ALTERNATIVES: usize = 20;
const USAGE: &str = r#"{"prompt_tokens":100,"completion_tokens":10,"total_tokens":110}"#;

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn token(text: &str, alternatives: usize) -> String {
    let name = |n: usize| if n == 0 { text.to_owned() } else { format!("{text}{n}") };
    let others: Vec<String> = (0..alternatives.min(ALTERNATIVES))
        .map(|n| format!(r#"{{"token":{},"logprob":-{n}.25,"bytes":null}}"#, quoted(&name(n))))
        .collect();
    let bytes = Value::from(text.as_bytes());
    let others = others.join(",");
    format!(r#"{{"token":{},"logprob":-0.25,"bytes":{bytes},"top_logprobs":[{others}]}}"#, quoted(text))
}

/// A server that gives what it is asked for and no more.
impl Style {
    /// The member `logprobs` of a choice.
    fn logprobs(self, asked: &Asked, tokens: &[&str]) -> String {
        match asked.logprobs {
            Some(_) if tokens.is_empty() => r#","logprobs":null"#.into(),
            Some(most) => {
                let tokens: Vec<String> = tokens.iter().map(|text| token(text, most)).collect();
                format!(r#","logprobs":{{"content":[{}],"refusal":null}}"#, tokens.join(","))
            }
            None if self.nulls => r#","logprobs":null"#.into(),
            None => String::new(),
        }
    }

    fn written(self, json: &str) -> String {
        let (mut out, mut inside, mut escaped) = (String::new(), false, false);
        for c in json.chars() {
            out.push(c);
            inside ^= c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            if self.spaced && !inside && [',', ':'].contains(&c) {
                out.push(' ');
            }
        }
        out
    }

    fn completion(self, asked: &Asked) -> String {
        let logprobs = self.logprobs(asked, &TOKENS);
        let content = quoted(&TOKENS.concat());
        let choices: Vec<String> = (0..asked.choices)
            .map(|n| {
                format!(
                    r#"{{"index":{n},"message":{{"role":"assistant","content":{content}}}{logprobs},"finish_reason":"stop"}}"#
                )
            })
            .collect();
        self.written(&format!(
            r#"{{"id":"c-1","object":"chat.completion","created":1,"model":"m","choices":[{}],"usage":{USAGE}}}"#,
            choices.join(",")
        ))
    }

    fn chunk(self, choices: &str, usage: &str) -> String {
        let chunk = format!(
            r#"{{"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m"{usage},"choices":[{choices}],"system_fingerprint":"f"}}"#
        );
        format!("data: {}\n\n", self.written(&chunk))
    }

    fn stream(self, asked: &Asked) -> String {
        let usage = if asked.usage && self.nulls { r#","usage":null"# } else { "" };
        let choice = |n, delta: &str, tokens: &[&str], reason: &str| {
            let logprobs = self.logprobs(asked, tokens);
            self.chunk(&format!(r#"{{"index":{n},"delta":{delta}{logprobs},"finish_reason":{reason}}}"#), usage)
        };
        let mut out = String::new();
        for n in 0..asked.choices {
            out.push_str(&choice(n, r#"{"role":"assistant","content":""}"#, &[], "null"));
        }
        for text in TOKENS {
            for n in 0..asked.choices {
                out.push_str(&choice(n, &format!(r#"{{"content":{}}}"#, quoted(text)), &[text], "null"));
            }
        }
        for n in 0..asked.choices {
            out.push_str(&choice(n, "{}", &[], r#""stop""#));
        }
        if asked.usage {
            out.push_str(&self.chunk("", &format!(r#","usage":{USAGE}"#)));
        }
        out + "data: [DONE]\n\n"
    }

    fn reply(self, request: &Value) -> String {
        let most = request["top_logprobs"].as_u64().unwrap_or(0);
        let asked = Asked {
            logprobs: (request["logprobs"] == true).then(|| usize::try_from(most).unwrap()),
            usage: request["stream_options"]["include_usage"] == true,
            choices: request["n"].as_u64().unwrap_or(1),
        };
        let (kind, body) = match request["stream"] == true {
            true => ("text/event-stream", self.stream(&asked)),
            false => ("application/json", self.completion(&asked)),
        };
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    /// Its port, and what it was asked last.
    async fn serve(self) -> (u16, Arc<Mutex<Value>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let last: Arc<Mutex<Value>> = Arc::default();
        let seen = last.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let body = request(&mut stream).await.unwrap();
                let asked: Value = serde_json::from_str(&body).unwrap();
                let reply = self.reply(&asked);
                *seen.lock().unwrap() = asked;
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
        });
        (port, last)
    }
}

/// The body, of whatever framing.
fn whole(reply: &Reply) -> String {
    if reply.header("transfer-encoding") != "chunked" {
        return reply.body.clone();
    }
    let (mut rest, mut whole) = (reply.body.as_str(), String::new());
    while let Some((size, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&more[..size]);
        rest = more[size..].strip_prefix("\r\n").unwrap();
    }
    whole
}

/// Members by their paths, those of lists left out.
fn members(value: &Value) -> BTreeMap<String, &Value> {
    fn walk<'a>(path: &str, value: &'a Value, found: &mut BTreeMap<String, &'a Value>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, value)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(&path, value, found);
            }),
            _ => drop(found.insert(path.to_owned(), value)),
        }
    }
    let mut found = BTreeMap::new();
    walk("", value, &mut found);
    found
}

/// What the router asked for and the client did not.
fn injected(client: &Value, sent: &Value) -> BTreeSet<String> {
    let (asked, sent) = (members(client), members(sent));
    let gone: Vec<&String> = asked
        .iter()
        .filter(|(name, value)| !value.is_null() && !sent.contains_key(*name))
        .map(|(name, _)| name)
        .collect();
    assert!(gone.is_empty(), "not passed on: {gone:?}");
    let more = sent.into_iter().filter(|(name, value)| name != "model" && asked.get(name) != Some(value));
    more.map(|(name, _)| name).collect()
}

/// Members of requests, beside the model and the messages: what a client may have asked for of what the router injects.
fn requests() -> Vec<Value> {
    let plain = [
        json!({}),
        json!({"logprobs": false, "temperature": 0.0}),
        json!({"logprobs": null, "top_logprobs": null, "n": 2}),
        json!({"logprobs": true}),
        json!({"logprobs": true, "top_logprobs": 0, "n": 2}),
        json!({"logprobs": true, "top_logprobs": 1}),
        json!({"logprobs": true, "top_logprobs": 2}),
        json!({"logprobs": true, "top_logprobs": 20}),
    ];
    let options = [json!(null), json!({}), json!({"include_usage": false}), json!({"include_usage": true})];
    let mut all = Vec::new();
    for mut members in plain {
        all.push(members.clone());
        members["stream"] = true.into();
        all.push(members.clone());
        for options in &options {
            members["stream_options"] = options.clone();
            all.push(members.clone());
        }
    }
    for members in &mut all {
        members["messages"] = json!([{"role": "user", "content": "hi"}]);
    }
    all
}

/// Asks both, and says what was injected.
async fn same(style: Style, router: &Harness, port: u16, last: &Mutex<Value>, asked: &Value) -> BTreeSet<String> {
    let body = asked.to_string();
    let direct = whole(&post(([127, 0, 0, 1], port).into(), "-", body.as_bytes()).await);
    let reply = router.ask(&body).await;
    let what = format!("{style:?}: {body}");
    assert_eq!(reply.status, 200, "{what}: {}", reply.body);
    assert!(reply.header("x-smallfirst-steps").ends_with(":accepted"), "{what}: {}", reply.head);
    let mut routed = whole(&reply);
    let injected = injected(asked, &last.lock().unwrap());
    if !style.nulls && asked["logprobs"] != true {
        // What the table says: null, also of a server that would have left it out.
        for null in [r#","logprobs":null"#, r#", "logprobs": null"#] {
            routed = routed.replace(null, "");
        }
    }
    let frames = |text: &str| text.split_inclusive("\n\n").map(str::to_owned).collect::<Vec<_>>();
    for (number, (routed, direct)) in frames(&routed).iter().zip(&frames(&direct)).enumerate() {
        assert_eq!(routed, direct, "frame {number} of {what}");
    }
    assert_eq!(routed, direct, "{what}");
    injected
}

#[tokio::test]
async fn a_client_gets_byte_for_byte_what_the_upstream_would_have_given_it() {
    let rows: BTreeSet<String> = EDITS.iter().map(|edit| edit.injected.to_owned()).collect();
    let mut seen = BTreeSet::new();
    for (nulls, spaced) in [(true, false), (false, false), (true, true), (false, true)] {
        let style = Style { nulls, spaced };
        let (port, last) = style.serve().await;
        let mut given = table(port, port);
        let router = Harness::start(given.clone()).await;
        for (measure, commit) in [("MeanLogprob", None), ("FirstTokenMargin", None), ("FirstTokenMargin", Some(2))] {
            let path = &mut given["paths"]["up"];
            path["steps"][0]["accept"][0]["check"]["confidence"]["measure"] = measure.into();
            path["commitAfterTokens"] = commit.into();
            router.reload(given.clone()).await;
            // One with the gate, and one without any.
            for workload in ["intent", "draft"] {
                for mut asked in requests() {
                    asked["model"] = workload.into();
                    let injected = same(style, &router, port, &last, &asked).await;
                    assert!(injected.is_subset(&rows), "{injected:?} has what no row of the table takes out: {asked}");
                    seen.extend(injected);
                }
            }
        }
    }
    assert_eq!(seen, rows, "a row of the table was never needed: add a request that needs it");
}
