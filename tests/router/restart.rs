//! A router process that ends and starts again.

use super::fake_upstream::FakeUpstream;
use super::harness::{body, post, table};
use super::process::{Process, command, file, free};
use super::{LARGE, SURE};

#[tokio::test]
async fn without_an_api_server_a_restart_serves_the_last_good_table() {
    let (small, large) = (FakeUpstream::start(SURE).await, FakeUpstream::start(LARGE).await);
    let folder = tempfile::tempdir().unwrap();
    let path = file(folder.path(), "table.json", &table(small.port, large.port).to_string());
    file(folder.path(), "secrets/client-keys/finance", "k-finance");
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let router = || {
        let mut router = command("router");
        router.args(["--secrets-dir", &at("secrets"), "--state-dir", &at("state"), "--lame-duck-seconds", "0"]);
        router
    };
    std::fs::create_dir(folder.path().join("state")).unwrap();
    let mut first = router();
    first.args(["--table", &path]);
    let first = Process::serving(first).await;
    assert_eq!(post(first.address, "k-finance", body("intent").as_bytes()).await.status, 200);
    assert_eq!(first.stop().await.0, Some(0));
    let away = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: u, user: {{}}}}]\n",
        free()
    );
    let mut second = router();
    second.args(["--namespace", "ai", "--policy", "assistants"]);
    second.env("KUBECONFIG", file(folder.path(), "kubeconfig", &away));
    let second = Process::serving(second).await;
    let reply = post(second.address, "k-finance", body("intent").as_bytes()).await;
    assert_eq!((reply.status, reply.header("x-smallfirst-steps")), (200, "small:accepted"), "{}", reply.body);
    assert_eq!(second.stop().await.0, Some(0));
}
