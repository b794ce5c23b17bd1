//! A real API server for tests: `SMALLFIRST_TEST_KUBECONFIG` names its kubeconfig.

use std::ffi::OsString;
use std::future::Future;

use serde_json::{Value, json};
use smallfirst::api::crd;

/// Runs a test against the API server, with the CRDs installed; says so when there is none.
#[expect(clippy::print_stderr, reason = "a skipped test says so")]
pub fn with_server<F: Future<Output = ()>>(test: impl FnOnce(kube::Client) -> F) {
    let Some(kubeconfig) = std::env::var_os("SMALLFIRST_TEST_KUBECONFIG") else {
        eprintln!("skipped, because SMALLFIRST_TEST_KUBECONFIG names no kubeconfig of a test cluster");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "skipped with CI=true");
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let client = connect(kubeconfig).await;
        install(&client).await;
        test(client).await;
    });
}

async fn connect(kubeconfig: OsString) -> kube::Client {
    // An error only says that another test of this process was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = kube::config::Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(read, &options).await.expect("a usable kubeconfig");
    kube::Client::try_from(config).expect("a client")
}

/// Sends a document; PATCH means server-side apply.
pub async fn send(client: &kube::Client, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
    let kind = if method == "PATCH" { "application/apply-patch+yaml" } else { "application/json" };
    let request = http::Request::builder().method(method).uri(path).header("content-type", kind);
    client.request(request.body(body.to_string().into_bytes()).expect("a request")).await
}

/// The CRDs, and a wait until the API server serves them.
async fn install(client: &kube::Client) {
    for crd in crd::all() {
        let name = crd["metadata"]["name"].as_str().expect("a name");
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let apply = format!("{path}?fieldManager=smallfirst-test&force=true");
        send(client, "PATCH", &apply, &crd).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let plural = name.split('.').next().expect("a plural");
        let list = format!("/apis/smallfirst.dev/v1alpha1/{plural}?limit=1");
        let mut tries = 0;
        while send(client, "GET", &list, &json!({})).await.is_err() {
            tries += 1;
            assert!(tries < 100, "{name} is not served");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}
