//! The table from a file, looked at every second: for a router without a cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Follows a file until the receivers are gone. A file that can't be read leaves the last table.
///
/// # Errors
/// When the file can't be read at the start.
pub fn follow(path: PathBuf) -> std::io::Result<watch::Receiver<Option<Arc<str>>>> {
    let first: Arc<str> = Arc::from(std::fs::read_to_string(&path)?);
    let (sender, receiver) = watch::channel(Some(first));
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        while !sender.is_closed() {
            tick.tick().await;
            match tokio::fs::read_to_string(&path).await {
                Ok(text) => {
                    sender.send_if_modified(|known| {
                        let changed = known.as_deref() != Some(text.as_str());
                        *known = Some(Arc::from(text));
                        changed
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "the table can't be read; the last one stays")
                }
            }
        }
    });
    Ok(receiver)
}
