use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::router::answer::ToolCall;
use crate::router::body::peek;

fn compiled(text: &str) -> Result<Expression, String> {
    Expression::compile(text)
}

/// `None` if the answer passes, else why it does not, and whether for want of evidence.
fn judged(text: &str, choice: &Choice) -> Option<(&'static str, bool)> {
    let body = Bytes::from(
        json!({"model": "intent", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}).to_string(),
    );
    let peek = peek(&body).expect("a request");
    let usage = Usage { prompt: 100, cached: 0, completion: 10 };
    let expression = compiled(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let finding = expression.judge(&RequestContext::new(&peek), Some(usage), choice, &Content::new(&choice.content));
    finding.failure.map(|why| (why, finding.missing))
}

fn answer(content: &str) -> Choice {
    Choice { content: content.into(), finish_reason: Some(FinishReason::Stop), ..Choice::default() }
}

const INVOICE: &str = r#"{"total": 121.5, "net": 100, "tax": 21.5, "lines": [{"n": 1, "price": 60}, {"n": 2, "price": 40.0}],
    "paid": null, "currency": "EUR", "note": "größe"}"#;

#[test]
fn what_is_true_of_an_answer_passes() {
    let choice = answer(INVOICE);
    for text in [
        "true",
        "size(answer) < 400 && answer.contains('EUR')",
        "json.total == double(json.net) + json.tax",
        "json.lines.all(line, line.price > 10 && line.n in [1, 2])",
        "json.lines.exists(line, line.price == 40)",
        "json.lines.exists_one(line, line.n == 2)",
        "size(json.lines.filter(line, line.price > 50)) == 1",
        "json.lines.filter(line, line.price > 50).all(line, line.n == 1)",
        "json.paid == null && has(json.paid) && !has(json.due)",
        "size(json.note) == 5 && json.note.startsWith('gr') && json.note.endsWith('e')",
        "json.currency.matches('^[A-Z]{3}$')",
        "json['currency'] == 'EUR' && json.lines[0].n == 1",
        "finishReason == 'stop' && usage.completion_tokens <= request.max_tokens && usage.total_tokens == 110",
        "request.model == 'intent' && !request.stream",
        "has(request.max_tokens) ? usage.completion_tokens < 50 : true",
        "json.all(name, size(name) > 2)",
        "int(json.total) == 121 && string(json.net) == '100'",
    ] {
        assert_eq!(judged(text, &choice), None, "{text}");
    }
}

#[test]
fn what_is_false_fails_and_what_can_not_be_said_is_missing() {
    let (choice, not_json) = (answer(INVOICE), answer("Hello."));
    for (text, choice, wanted) in [
        ("size(answer) < 4", &choice, ("the expression is false", false)),
        ("json.currency == 'USD'", &choice, ("the expression is false", false)),
        ("json.currency", &choice, ("the expression is neither true nor false", false)),
        ("json.due == 1", &choice, ("the expression could not be evaluated", true)),
        // The evaluator alone would take this for `!false`.
        ("!json.lines.refused", &choice, ("the expression could not be evaluated", true)),
        ("json.total / 0.0 > 1.0 && json.net % 0 == 1", &choice, ("the expression could not be evaluated", true)),
        ("-json.currency == 1", &choice, ("the expression could not be evaluated", true)),
        ("json.currency && true", &choice, ("the expression could not be evaluated", true)),
        ("json != 5", &not_json, ("the answer is not JSON", true)),
    ] {
        assert_eq!(judged(text, choice), Some(wanted), "{text}");
    }
    let cut = Choice { content: "hi".into(), ..Choice::default() };
    assert_eq!(judged("finishReason == 'stop'", &cut), Some(("no known finish reason", true)));
    let calls = Choice { tool_calls: vec![ToolCall::default()], ..Choice::default() };
    assert_eq!(judged("size(answer) < 4", &calls), Some(("no text", true)));
    assert_eq!(judged("size(answer) < 4", &answer("")), None);
}

#[test]
fn a_program_that_is_wrong_is_refused_and_the_error_says_what_must_be() {
    for (text, why) in [
        ("", "column"),
        ("size(answer) <", "column"),
        ("answer", "must be true or false"),
        ("size(answer)", "must be true or false"),
        ("usage.total_tokens", "must be true or false"),
        ("request.model", "must be true or false"),
        ("1 + 1", "must be true or false"),
        ("json.x.filter(y, true)", "must be true or false"),
        ("true ? 1 : 2", "must be true or false"),
        ("answer && true", "&&, ||, ! and ? take what is true or false"),
        ("answer ? true : false", "&&, ||, ! and ? take what is true or false"),
        ("content == 'a'", "\"content\" is not known; known are answer, json, finishReason, usage, request"),
        ("usage.cost > 1", "usage has no \"cost\"; it has prompt_tokens, completion_tokens, total_tokens"),
        ("has(request.user)", "request has no \"user\"; it has model, stream, max_tokens"),
        ("answer.text == ''", "answer is a text"),
        ("answer.lower() == ''", "no function \"lower\""),
        ("size(answer, 1) == 1", "no function \"size\" that is called like this"),
        ("duration('1s') == duration('1s')", "no function \"duration\""),
        ("optional.none() == 1", "optional"),
        ("answer.matches(answer)", "matches: the pattern must be written as a text"),
        ("answer.matches('(')", "matches: regex parse error"),
        ("json.a.all(x, json.b.all(y, x == y))", "must not be nested"),
        ("json.a.all(x, x.b.exists(y, y))", "must not be nested"),
        ("json.a.map(x, answer) == []", "map is not supported"),
        ("json.a.map(x, true, [x]) == []", "map is not supported"),
        ("google.protobuf.Duration{seconds: 1} == json", ""),
    ] {
        let error = compiled(text).err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(error.starts_with("expression: ") && error.contains(why), "{text}: {error}");
    }
}

/// Every way to nest, on a test's small stack.
#[test]
fn no_program_exhausts_the_stack() {
    for (open, middle, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("f(", "1", ")"),
        ("!(", "true", ")"),
        ("!", "true", ""),
        ("-", "1", ""),
        ("- ", "1", ""),
        ("json.", "a", ""),
        ("json[", "1", "]"),
        ("", "json", ".a"),
        ("", "json", "[1]"),
        ("", "json", ".f()"),
        ("", "json", "?.a"),
        ("1+", "1", ""),
        ("1<", "1", ""),
        ("true||", "true", ""),
        ("true&&", "true", ""),
        ("true?", "true", ":true"),
        ("true?true:", "true", ""),
        ("[1].all(x,", "true", ")"),
        ("[1", "", ""),
        ("'", "", ""),
        ("\\", "", ""),
    ] {
        let count = MAX_EXPRESSION_BYTES / (open.len() + close.len()) - 1;
        let count = if ['(', '[', '{'].iter().any(|c| open.contains(*c)) { MAX_BRACKETS } else { count };
        let text = format!("{}{middle}{}", open.repeat(count), close.repeat(count));
        // What a program of a lawful depth says does not matter here.
        if let Ok(expression) = compiled(&text) {
            let choice = answer("{}");
            let body = Bytes::from(r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#);
            let peek = peek(&body).expect("a request");
            let _ = expression.judge(&RequestContext::new(&peek), None, &choice, &Content::new(&choice.content));
        }
    }
    let many = format!("size([{}]) == 0", "(1),".repeat(MAX_BRACKETS));
    assert!(compiled(&many).expect_err("too many").contains("at most 64 brackets"));
    assert!(compiled(&"a".repeat(MAX_EXPRESSION_BYTES + 1)).expect_err("too long").contains("at most 1024 bytes"));
}

#[test]
fn what_would_take_long_is_not_judged() {
    let long = answer(&"a".repeat(MOST_BYTES + 1));
    assert_eq!(judged("size(answer) > 1", &long), Some(("the answer is too long for an expression", true)));
    assert_eq!(judged("finishReason == 'stop'", &long), None, "nothing of the text is read");
    let list = answer(&format!("[{}1]", "1,".repeat(10_000)));
    assert_eq!(judged("size(json) == 10001", &list), None);
    let why = ("the answer is too long for this expression", true);
    assert_eq!(judged("json.all(x, answer.contains('1'))", &list), Some(why));
}
