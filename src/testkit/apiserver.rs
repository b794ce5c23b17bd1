//! A fake API server, in memory, behind a real [`kube::Client`].
//!
//! It stores objects of any kind, and knows enough of create, replace, delete, merge patch, server-side apply,
//! lists and watches for the operator to live on it. Server-side apply is a plain deep merge in which lists are
//! replaced; there is no schema, no defaulting and no garbage collection. Faults are asked for by the test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A write that the server was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// HTTP method.
    pub method: String,
    /// Path without its query.
    pub path: String,
    /// Status that was answered.
    pub code: u16,
}

/// A fault: requests of a method whose path has a part get an answer that nobody wants.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Method, such as PATCH.
    pub method: Method,
    /// Part of the path.
    pub path: String,
    /// How often. `None`: until [`FakeApiServer::heal`].
    pub times: Option<u32>,
    /// What happens.
    pub kind: FaultKind,
}

/// What a fault does.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// A Status of this code.
    Code(u16),
    /// A conflict of server-side apply with this manager over this field.
    Conflict(String, String),
    /// The refusal of a namespace that is being deleted.
    Terminating,
    /// The right answer, after a time.
    Late(Duration),
    /// No answer.
    Hang,
}

#[derive(Debug)]
struct State {
    version: u64,
    /// By path of the object.
    objects: BTreeMap<String, Value>,
    writes: Vec<Write>,
    faults: Vec<Fault>,
    news: broadcast::Sender<(String, &'static str, Value)>,
}

/// A fake API server.
#[derive(Clone, Debug)]
pub struct FakeApiServer {
    state: Arc<Mutex<State>>,
}

impl Default for FakeApiServer {
    fn default() -> Self {
        let (news, _) = broadcast::channel(65_536);
        let state = State { version: 100, objects: BTreeMap::new(), writes: Vec::new(), faults: Vec::new(), news };
        Self { state: Arc::new(Mutex::new(state)) }
    }
}

impl FakeApiServer {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that talks to this server.
    #[must_use]
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Asks for a fault.
    pub fn fail(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Ends every watch with `410 Gone`.
    pub fn expire_watches(&self) {
        let gone = failure(410, "Expired", "too old resource version");
        let _ = self.state().news.send((String::new(), "ERROR", gone));
    }

    /// The writes since the last call.
    #[must_use]
    pub fn take_writes(&self) -> Vec<Write> {
        std::mem::take(&mut self.state().writes)
    }

    /// Puts an object as it is, as another client would. `path` is that of the object.
    pub fn put(&self, path: &str, mut object: Value) {
        let mut state = self.state();
        let old = state.objects.get(path).cloned();
        state.store(path, old.as_ref(), &mut object);
    }

    /// Deletes an object, as another client would.
    pub fn remove(&self, path: &str) {
        self.state().delete(path);
    }

    /// One object.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// An object whose path has a part.
    #[must_use]
    pub fn find(&self, part: &str) -> Option<Value> {
        self.state().objects.iter().find(|(path, _)| path.contains(part)).map(|(_, object)| object.clone())
    }

    /// Number of objects whose path has a part.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.state().objects.keys().filter(|path| path.contains(part)).count()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let fault = self.state().fault(&parts.method, &path);
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if let Some(FaultKind::Late(wait)) = &fault {
            tokio::time::sleep(*wait).await;
        }
        let answer = match fault {
            Some(FaultKind::Hang) => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                failure(504, "Timeout", "a fault")
            }
            Some(FaultKind::Code(code)) => failure(code, "Fault", "a fault"),
            Some(FaultKind::Conflict(manager, field)) => conflict(&manager, &field),
            Some(FaultKind::Terminating) => terminating(),
            None | Some(FaultKind::Late(_)) if parts.method == Method::GET => match self.read(&path, &query) {
                Ok(value) => value,
                Err(stream) => return *stream,
            },
            None | Some(FaultKind::Late(_)) => self.state().write(&parts.method, &path, &query, body),
        };
        let code = if answer["kind"] == "Status" { answer["code"].as_u64().unwrap_or(200) } else { 200 };
        let code = u16::try_from(code).unwrap_or(500);
        if parts.method != Method::GET {
            self.state().writes.push(Write { method: parts.method.to_string(), path, code });
        }
        let bytes = StreamBody::new(futures::stream::iter([Ok(Frame::data(Bytes::from(answer.to_string())))]));
        respond(code, bytes.boxed_unsync())
    }

    /// An object, a list, or `Err` with a watch.
    fn read(&self, path: &str, query: &str) -> Result<Value, Box<Answer>> {
        let state = self.state();
        if let Some(object) = state.objects.get(path) {
            return Ok(object.clone());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        if state.is_object(path) {
            return Ok(failure(404, "NotFound", &format!("{last} not found")));
        }
        let selector = value(query, "labelSelector");
        let listed: Vec<Value> = state
            .objects
            .iter()
            .filter(|(at, o)| of(at, path) && selects(&selector, o))
            .map(|(_, o)| o.clone())
            .collect();
        if !query.contains("watch=true") {
            let version = state.version.to_string();
            return Ok(
                json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": listed}),
            );
        }
        let news = state.news.subscribe();
        let initial = query.contains("sendInitialEvents=true");
        let since: u64 = value(query, "resourceVersion").parse().unwrap_or_default();
        let mut first: Vec<Value> = listed
            .into_iter()
            .filter(|o| initial || version_of(o) > since)
            .map(|o| json!({"type": "ADDED", "object": o}))
            .collect();
        if initial {
            first.push(json!({"type": "BOOKMARK", "object": {"kind": "Any", "apiVersion": "v1", "metadata": {
                "resourceVersion": state.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}));
        }
        drop(state);
        let path = path.to_owned();
        let later = futures::stream::unfold((news, false), move |(mut news, over)| {
            let (path, selector) = (path.clone(), selector.clone());
            async move {
                if over {
                    return None;
                }
                loop {
                    let (at, kind, object) = news.recv().await.ok()?;
                    if kind == "ERROR" || of(&at, &path) && selects(&selector, &object) {
                        return Some((json!({"type": kind, "object": object}), (news, kind == "ERROR")));
                    }
                }
            }
        });
        let lines = futures::stream::iter(first).chain(later);
        let frames = lines.map(|line| Ok(Frame::data(Bytes::from(format!("{line}\n")))));
        Err(Box::new(respond(200, StreamBody::new(frames).boxed_unsync())))
    }
}

impl State {
    fn fault(&mut self, method: &Method, path: &str) -> Option<FaultKind> {
        let at = self.faults.iter().position(|f| f.method == *method && path.contains(&f.path))?;
        let fault = self.faults.get_mut(at)?;
        let kind = fault.kind.clone();
        if let Some(times) = &mut fault.times {
            *times -= 1;
            if *times == 0 {
                self.faults.remove(at);
            }
        }
        Some(kind)
    }

    /// Whether a path is that of an object: after `namespaces/<ns>/` come a plural and a name.
    fn is_object(&self, path: &str) -> bool {
        path.split("/namespaces/").nth(1).is_some_and(|rest| rest.split('/').count() >= 3)
    }

    fn store(&mut self, path: &str, old: Option<&Value>, object: &mut Value) -> Value {
        let mut before = old.cloned().unwrap_or_default();
        let same = |a: &mut Value| {
            if let Some(metadata) = a["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
                metadata.remove("generation");
            }
            a.clone()
        };
        if old.is_some() && same(&mut before) == same(&mut object.clone()) {
            return old.cloned().unwrap_or_default();
        }
        self.version += 1;
        let meta = &mut object["metadata"];
        meta["resourceVersion"] = json!(self.version.to_string());
        let old_meta = old.map(|o| o["metadata"].clone()).unwrap_or_default();
        meta["uid"] = old_meta.get("uid").cloned().unwrap_or_else(|| json!(format!("uid-{}", self.version)));
        let parts: Vec<&str> = path.split('/').collect();
        meta["name"] = json!(parts.last());
        if let Some(at) = parts.iter().position(|p| *p == "namespaces") {
            meta["namespace"] = json!(parts.get(at + 1));
        }
        let generation = old_meta["generation"].as_i64().unwrap_or_default();
        let changed = old.is_none_or(|o| o["spec"] != object["spec"]);
        object["metadata"]["generation"] = json!(generation + i64::from(changed));
        self.objects.insert(path.to_owned(), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        let _ = self.news.send((path.to_owned(), kind, object.clone()));
        object.clone()
    }

    fn delete(&mut self, path: &str) -> Value {
        let Some(mut object) = self.objects.remove(path) else { return failure(404, "NotFound", path) };
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let _ = self.news.send((path.to_owned(), "DELETED", object.clone()));
        object
    }

    fn write(&mut self, method: &Method, path: &str, query: &str, mut body: Value) -> Value {
        let (at, status) = match path.strip_suffix("/status") {
            Some(at) => (at, true),
            None => (path, false),
        };
        if *method == Method::DELETE {
            return self.delete(at);
        }
        if *method == Method::POST {
            let name = body["metadata"]["name"].as_str().unwrap_or_default();
            let at = format!("{at}/{name}");
            if self.objects.contains_key(&at) {
                return failure(409, "AlreadyExists", &at);
            }
            return self.store(&at, None, &mut body);
        }
        let old = self.objects.get(at).cloned();
        let wanted = body["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        if let (Some(old), Some(wanted)) = (&old, wanted)
            && old["metadata"]["resourceVersion"] != json!(wanted)
        {
            return failure(409, "Conflict", "the object has been modified");
        }
        match (*method == Method::PUT, &old) {
            (true, None) => return failure(404, "NotFound", at),
            (true, Some(_)) => return self.store(at, old.as_ref(), &mut body),
            (false, None) if status || !query.contains("fieldManager") => return failure(404, "NotFound", at),
            (false, _) => {}
        }
        let mut new = old.clone().unwrap_or_else(|| json!({}));
        let uid = body["metadata"]["uid"].clone();
        if !uid.is_null() && old.as_ref().is_some_and(|o| o["metadata"]["uid"] != uid) {
            return failure(409, "Conflict", "uid mismatch");
        }
        if status {
            new["status"] = body["status"].clone();
        } else {
            merge(&mut new, body);
        }
        self.store(at, old.as_ref(), &mut new)
    }
}

fn version_of(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).unwrap_or_default()
}

/// Whether an object's path is below a collection's, which may span namespaces.
fn of(at: &str, collection: &str) -> bool {
    if let Some(rest) = at.strip_prefix(collection) {
        return rest.starts_with('/') && rest.matches('/').count() == 1;
    }
    let Some((api, rest)) = at.split_once("/namespaces/") else { return false };
    let plural = rest.split('/').nth(1).unwrap_or_default();
    format!("{api}/{plural}") == collection
}

fn value(query: &str, key: &str) -> String {
    let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(k, _)| *k == key);
    pair.map(|(_, v)| v.replace("%3D", "=").replace("%2F", "/").replace('+', " ")).unwrap_or_default()
}

fn selects(selector: &str, object: &Value) -> bool {
    let Some((key, value)) = selector.split_once('=') else { return true };
    object["metadata"]["labels"][key] == json!(value)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason, "message": message})
}

fn conflict(manager: &str, field: &str) -> Value {
    let mut status = failure(409, "Conflict", "Apply failed with 1 conflict");
    status["details"] = json!({"causes": [{
        "reason": "FieldManagerConflict", "field": field, "message": format!("conflict with \"{manager}\""),
    }]});
    status
}

fn terminating() -> Value {
    let mut status = failure(403, "Forbidden", "unable to create new content in a namespace that is being terminated");
    status["details"] = json!({"causes": [{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]});
    status
}

fn respond(code: u16, body: UnsyncBoxBody<Bytes, Infallible>) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}
