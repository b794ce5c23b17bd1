//! What routers had spent, on the disk of their pod: it outlives a process that is killed.
//!
//! A slot of 32 bytes for each budget, written whole with each change: what budget it is, and the three numbers of
//! [`Kept`]. The kernel has it when the call returns, so that only the end of the node loses it, and with that the pod.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::lease::budget::purse::Kept;

/// Bytes of a slot; the first one holds the id.
const SLOT: usize = 32;
/// Slots that are read at most: a policy has 64 workloads and 256 clients, and some were before.
const MOST: usize = 4_096;

/// The file.
#[derive(Debug)]
pub struct BudgetFile {
    file: File,
    /// Whose purses these are: made with the file, so that a process that follows speaks for the same.
    id: u64,
    slots: Mutex<HashMap<[u8; 8], (u64, Kept)>>,
}

/// A budget's place in the file.
#[derive(Debug)]
pub struct Slot {
    file: Arc<BudgetFile>,
    name: [u8; 8],
    place: u64,
}

fn word(bytes: &[u8], index: usize) -> [u8; 8] {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[index * 8..(index + 1) * 8]);
    word
}

impl BudgetFile {
    /// Opens the file, or makes it; `fresh` becomes its id then.
    ///
    /// # Errors
    /// When it can't be read or written.
    pub fn open(path: &Path, fresh: u64) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = vec![0; SLOT * (MOST + 1)];
        let mut length = 0;
        while let read @ 1.. = file.read_at(&mut bytes[length..], length as u64)? {
            length += read;
        }
        let id = if length < SLOT {
            let mut first = [0; SLOT];
            first[..8].copy_from_slice(&fresh.to_le_bytes());
            file.write_all_at(&first, 0)?;
            fresh
        } else {
            u64::from_le_bytes(word(&bytes, 0))
        };
        let numbers = |slot: &[u8]| Kept {
            period: i64::from_le_bytes(word(slot, 1)),
            granted: i64::from_le_bytes(word(slot, 2)),
            spent: i64::from_le_bytes(word(slot, 3)),
        };
        // A slot that was being written is no whole one yet, and said nothing to anybody.
        let slots = bytes[..length]
            .chunks_exact(SLOT)
            .skip(1)
            .zip(1..)
            .map(|(slot, place)| (word(slot, 0), (place * SLOT as u64, numbers(slot))));
        Ok(Arc::new(Self { file, id, slots: Mutex::new(slots.collect()) }))
    }

    /// Whose purses these are.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The place of a budget, and its numbers as they were left.
    #[must_use]
    pub fn slot(self: &Arc<Self>, scope: &str, budget: &str) -> Option<(Slot, Kept)> {
        let digest = Sha256::digest(format!("{scope}/{budget}").as_bytes());
        let name = word(&digest, 0);
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MOST && !slots.contains_key(&name) {
            return None;
        }
        let next = (slots.len() as u64 + 1) * SLOT as u64;
        let (place, kept) = *slots.entry(name).or_insert((next, Kept::default()));
        drop(slots);
        Some((Slot { file: self.clone(), name, place }, kept))
    }
}

impl Slot {
    /// Writes the numbers down. What can't be written is lost with the process: that is told once it matters, by the
    /// operator, which counts it as spent.
    pub fn keep(&self, kept: Kept) {
        let mut bytes = [0; SLOT];
        let words = [self.name, kept.period.to_le_bytes(), kept.granted.to_le_bytes(), kept.spent.to_le_bytes()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word);
        }
        if let Err(error) = self.file.file.write_all_at(&bytes, self.place) {
            tracing::warn!(%error, "what was spent of a budget could not be kept on disk");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_again_and_so_is_the_id() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("budgets");
        let kept = |spent| Kept { period: 7, granted: 100, spent };
        {
            let file = BudgetFile::open(&path, 11).expect("a file");
            let (first, before) = file.slot("client", "a").expect("a slot");
            assert_eq!((file.id(), before), (11, Kept::default()));
            let (second, _) = file.slot("workload", "a").expect("a slot");
            first.keep(kept(1));
            second.keep(kept(2));
            first.keep(kept(3));
        }
        let file = BudgetFile::open(&path, 12).expect("a file");
        assert_eq!(file.id(), 11);
        assert_eq!(file.slot("client", "a").expect("a slot").1, kept(3));
        assert_eq!(file.slot("workload", "a").expect("a slot").1, kept(2));
        assert_eq!(file.slot("workload", "b").expect("a slot").1, Kept::default());
        std::fs::write(&path, b"half").expect("a write");
        assert_eq!(BudgetFile::open(&path, 13).expect("a file").id(), 13, "what is no file begins anew");
    }
}
