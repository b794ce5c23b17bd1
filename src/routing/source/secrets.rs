//! Keys from mounted Secrets: `<folder>/<secret>/<key>`. Looked at every second, so that a changed key needs no restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::api::types::SecretKeyRef;

/// Keys by Secret and key.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(BTreeMap<(String, String), Bytes>);

impl std::fmt::Debug for Secrets {
    /// Names only: keys must not get into a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl FromIterator<((String, String), Bytes)> for Secrets {
    fn from_iter<I: IntoIterator<Item = ((String, String), Bytes)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

impl Secrets {
    /// A key, if it is there.
    #[must_use]
    pub fn get(&self, secret: &SecretKeyRef) -> Option<Bytes> {
        self.0.get(&(secret.name.clone(), secret.key.clone())).cloned()
    }

    /// Adds the keys of another set, which win.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

/// Reads a folder. Files that can't be read are left out: their absence is reported by whoever needs them.
#[must_use]
pub fn read(folder: &Path) -> Secrets {
    let entries = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    // The kubelet keeps its own links beside the keys; their names start with two dots.
    let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().ok().filter(|n| !n.starts_with(".."));
    let mut keys = BTreeMap::new();
    for secret in entries(folder.to_owned()) {
        let Some(secret_name) = name(&secret) else { continue };
        for key in entries(secret.path()) {
            if let (Some(key_name), Ok(value)) = (name(&key), std::fs::read(key.path())) {
                // A file made by hand ends with a line feed that is not part of the key.
                let value = value.strip_suffix(b"\n").map_or_else(|| value.clone(), <[u8]>::to_vec);
                keys.insert((secret_name.clone(), key_name), Bytes::from(value));
            }
        }
    }
    Secrets(keys)
}

/// Follows a folder until the receivers are gone.
#[must_use]
pub fn follow(folder: PathBuf) -> watch::Receiver<Secrets> {
    let (sender, receiver) = watch::channel(read(&folder));
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        while !sender.is_closed() {
            tick.tick().await;
            let folder = folder.clone();
            let Ok(seen) = tokio::task::spawn_blocking(move || read(&folder)).await else { break };
            sender.send_if_modified(|known| {
                let changed = *known != seen;
                *known = seen;
                changed
            });
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_without_the_kubelets_own_links() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("client-keys");
        std::fs::create_dir_all(secret.join("..data")).unwrap();
        std::fs::write(secret.join("finance"), "k1\n").unwrap();
        let secrets = read(folder.path());
        let at = |name: &str, key: &str| secrets.get(&SecretKeyRef { name: name.into(), key: key.into() });
        assert_eq!(at("client-keys", "finance"), Some(Bytes::from("k1")));
        assert_eq!(at("client-keys", "..data"), None);
        assert!(!format!("{secrets:?}").contains("k1"));
    }
}
