//! What an upstream sends: the events of a stream are the same however its bytes were cut, and what is taken out of a reply
//! takes nothing else with it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use smallfirst::router::answer::{
    Answer, AnswerError, Choice, Reader, Strip, Usage, frames_from_completion, strip_completion, strip_frames,
};
use smallfirst::router::sse::{DONE, Parser, SseError, encode};

const BARE: Strip = Strip { logprobs: true, top_logprobs: None, usage_chunk: true };
const SHORTER: Strip = Strip { logprobs: false, top_logprobs: Some(1), usage_chunk: false };

/// Events, and how reading them ended.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limit: usize) -> (Vec<Bytes>, Result<(), SseError>) {
    let (mut parser, mut events) = (Parser::new(limit), Vec::new());
    for piece in pieces {
        if let Err(error) = parser.push(piece, &mut events) {
            return (events, Err(error));
        }
    }
    let end = parser.finish();
    (events, end)
}

/// An answer without its log probabilities, of which only how many and how likely may be looked at.
fn said(answer: Result<Answer, AnswerError>) -> (Vec<Choice>, Option<Usage>, Vec<Option<Vec<f64>>>) {
    let answer = answer.expect("it was an answer before");
    let mut choices = answer.choices;
    let tokens = choices.iter_mut().map(|choice| {
        let tokens = choice.tokens.take();
        tokens.map(|tokens| tokens.list.iter().map(|token| token.logprob).collect())
    });
    let tokens = tokens.collect();
    (choices, answer.usage, tokens)
}

fn is_json(payload: &[u8]) -> bool {
    payload == DONE || serde_json::from_slice::<IgnoredAny>(payload).is_ok()
}

/// Lists of log probabilities are walked, not checked (`router::json::cursor`): what is no JSON there gives garbage for garbage.
fn stream(events: &[Bytes]) {
    if !events.iter().all(|event| is_json(event)) {
        return;
    }
    let Ok(answer) = Answer::from_stream(events) else { return };
    let (choices, usage, tokens) = said(Ok(answer));
    let events: Vec<Bytes> = events.iter().take_while(|event| event.as_ref() != DONE).cloned().collect();
    let bare = strip_frames(&events, BARE);
    assert!(bare.iter().all(|event| is_json(event)));
    let (left, _, none) = said(Answer::from_stream(&bare));
    assert_eq!(left, choices);
    assert!(none.iter().all(Option::is_none), "log probabilities that nobody asked for");
    let (left, same, likely) = said(Answer::from_stream(&strip_frames(&events, SHORTER)));
    assert_eq!((left, same, likely), (choices.clone(), usage, tokens.clone()));
    // One identity changes nothing else.
    let (mut reader, mut unified) = (Reader::default(), events.clone());
    events.iter().for_each(|event| reader.chunk(event).expect("a chunk"));
    reader.unify(&mut unified);
    assert_eq!(said(Answer::from_stream(&unified)), (choices, usage, tokens));
}

fn completion(body: &Bytes) {
    let Ok(answer) = Answer::from_completion(body, true) else { return };
    if !is_json(body) {
        return;
    }
    let lists = answer.logprobs.clone();
    let (choices, usage, tokens) = said(Ok(answer));
    let quick = Answer::from_completion(body, false);
    assert_eq!(said(quick), (choices.clone(), usage, tokens.clone()));
    let bare = strip_completion(body, BARE, &lists);
    assert!(is_json(&bare));
    let (left, same, none) = said(Answer::from_completion(&bare, true));
    assert_eq!((&left, same), (&choices, usage));
    assert!(none.iter().all(Option::is_none), "log probabilities that nobody asked for");
    let (left, same, likely) = said(Answer::from_completion(&strip_completion(body, SHORTER, &lists), true));
    assert_eq!((left, same, likely), (choices.clone(), usage, tokens.clone()));
    // As a stream it says the same, unless it does not say how it ended.
    let Ok(frames) = frames_from_completion(body, true) else { return };
    if let Ok(answer) = Answer::from_stream(&frames) {
        assert_eq!(said(Ok(answer)), (choices, usage, tokens));
    }
}

fuzz_target!(|data: &[u8]| {
    let piece = 2 + data.len() % 13;
    for limit in [48, 1 << 16] {
        let whole = read([data], limit);
        assert_eq!(read(data.chunks(1), limit), whole);
        assert_eq!(read(data.chunks(piece), limit), whole);
        assert_eq!(read(data.rchunks(piece).rev(), limit), whole);
    }
    let (events, _) = read([data], 1 << 16);
    // What is written is read again.
    assert_eq!(read([&encode(&events)[..]], 1 << 16), (events.clone(), Ok(())));
    stream(&events);
    completion(&Bytes::copy_from_slice(data));
    // A chunk as a completion: the shapes are the same.
    events.iter().for_each(completion);
});
