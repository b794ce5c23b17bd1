//! A reply without its log probabilities: they are nearly all of its bytes, and serde takes long for them.
//!
//! ```text
//! {"choices":[{...,"logprobs":{"content":[...35 KB...]}}]}  ->  {"choices":[{...,"logprobs":0}]}  and list 0
//! ```
//! What can't be read is left where it is: serde then says what is wrong with it.

use std::borrow::Cow;

use crate::router::json::Cursor;

const KEY: &str = "\"logprobs\"";

/// The text with each object that is the value of a key `logprobs` replaced by its number, and what `read` made of them.
/// `read` must step over the object.
pub(super) fn lean<'a, T>(text: &'a str, mut read: impl FnMut(&mut Cursor<'a>) -> Option<T>) -> (Cow<'a, str>, Vec<T>) {
    let (mut short, mut found) = (String::new(), Vec::new());
    // How far it was copied, and how far it was looked at.
    let (mut done, mut seen) = (0, 0);
    let finder = memchr::memmem::Finder::new(KEY);
    while let Some(found_at) = finder.find(&text.as_bytes()[seen..]) {
        let at = seen + found_at;
        seen = at + KEY.len();
        let mut cursor = Cursor::new(text, seen);
        // After a backslash it is the end of a string that has an escaped quote.
        let escaped = at > 0 && text.as_bytes()[at - 1] == b'\\';
        if escaped || !cursor.take(b':') || cursor.peek() != Some(b'{') {
            continue;
        }
        let start = cursor.clone();
        if let Some(list) = read(&mut cursor) {
            short.push_str(&text[done..start.at()]);
            short.push_str(&found.len().to_string());
            found.push(list);
            (done, seen) = (cursor.at(), cursor.at());
            continue;
        }
        // Something else of that name, which is looked at no more: a text must not be read once for each key in it.
        cursor = start;
        if cursor.skip().is_none() {
            break;
        }
        seen = cursor.at();
    }
    if found.is_empty() {
        return (Cow::Borrowed(text), found);
    }
    short.push_str(&text[done..]);
    (Cow::Owned(short), found)
}
