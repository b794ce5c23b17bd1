//! Traces of requests: when they came, and how many tokens they had.
//!
//! | form | what a row is |
//! | --- | --- |
//! | CSV of Azure's LLM inference traces (a header `TIMESTAMP,ContextTokens,GeneratedTokens`) | time, tokens of input and output |
//! | JSON lines | an object; see [`jsonl`] |

mod azure;
mod jsonl;

use std::collections::BTreeMap;
use std::io::BufRead;

use super::clock::Nanos;

/// Most problems of a trace that are told at once.
const SHOWN: usize = 10;

/// One request of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// When it came, from the first row's time.
    pub at: Nanos,
    /// Tokens of input.
    pub input: u32,
    /// Tokens of output that the model makes if it is not stopped.
    pub output: u32,
    /// What else it says, by its place in [`Trace::says`].
    pub says: Option<u32>,
}

/// What a row of JSON lines may say of its request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Client and model, which choose a kind of the scenario.
    pub kind: Option<(Option<String>, String)>,
    /// Bound on its output.
    pub max_tokens: Option<u32>,
    /// Score of the answer of a step, by the step's name.
    pub scores: BTreeMap<String, f64>,
}

/// A trace, in the order of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Its rows, at least one.
    pub rows: Vec<Row>,
    /// What rows say besides.
    pub says: Vec<Details>,
}

impl Trace {
    /// Reads a trace in either form.
    ///
    /// # Errors
    /// What is wrong, a line each, with file, line and field; no more than some of it.
    pub fn read(name: &str, text: impl BufRead) -> Result<Self, Vec<String>> {
        let mut text = text;
        let begin = match text.fill_buf() {
            Ok(begin) => begin,
            Err(error) => return Err(vec![format!("{name}: {error}")]),
        };
        let json = begin.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let mut reading = Reading { name, trace: Self::default(), problems: Vec::new() };
        if json {
            jsonl::read(text, &mut reading)
        } else {
            azure::read(text, &mut reading)
        }
        reading.done()
    }

    /// Time from the first row to when the first row would come again: the last row, and the mean time between rows.
    #[must_use]
    pub fn span(&self) -> Nanos {
        let last = self.rows.last().map_or(0, |row| row.at);
        let gaps = u64::try_from(self.rows.len()).unwrap_or(u64::MAX).saturating_sub(1).max(1);
        last + (last / gaps).max(1)
    }
}

/// A trace that is being read.
struct Reading<'a> {
    name: &'a str,
    trace: Trace,
    problems: Vec<String>,
}

impl Reading<'_> {
    /// Notes what is wrong with a line. False: there is no use in reading on.
    fn wrong(&mut self, line: u64, problem: &str) -> bool {
        self.problems.push(format!("{}: line {line}: {problem}", self.name));
        self.problems.len() < SHOWN
    }

    fn done(self) -> Result<Trace, Vec<String>> {
        let Self { name, mut trace, problems } = self;
        if !problems.is_empty() {
            return Err(problems);
        }
        trace.rows.sort_by_key(|row| row.at);
        let Some(first) = trace.rows.first().map(|row| row.at) else {
            return Err(vec![format!("{name}: has no rows")]);
        };
        trace.rows.iter_mut().for_each(|row| row.at -= first);
        Ok(trace)
    }
}

/// A time as nanoseconds since 1970: RFC 3339, or without a zone (as UTC), with a blank for the T if need be. `None`: none
/// of these, or before 1970.
fn time(text: &str) -> Option<Nanos> {
    let at = match text.parse::<jiff::Timestamp>() {
        Ok(at) => at,
        Err(_) => text.parse::<jiff::civil::DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp(),
    };
    u64::try_from(at.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::super::clock::SECOND;
    use super::*;

    fn read(text: &str) -> Result<Trace, String> {
        Trace::read("t", text.as_bytes()).map_err(|problems| problems.join("\n"))
    }

    #[test]
    fn azure_traces_are_read_and_sorted() {
        let trace = read(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:50.9951690,396,109\n\
             2023-11-16 18:15:46.6805900,374,44\n2024-05-10 00:00:00.009930+00:00,1,2\n",
        );
        let rows: Vec<_> = trace.expect("a trace").rows.iter().map(|row| (row.at, row.input, row.output)).collect();
        assert_eq!(rows[..2], [(0, 374, 44), (4_314_579_000, 396, 109)]);
    }

    #[test]
    fn json_lines_may_say_more() {
        let trace = read(
            "{\"at\": 1.5, \"inputTokens\": 7, \"outputTokens\": 3}\n\n\
             {\"at\": \"1970-01-01T00:00:02Z\", \"inputTokens\": 8, \"outputTokens\": 4, \"client\": \"a\", \"model\": \"m\", \
             \"maxTokens\": 9, \"scores\": {\"small\": -0.25}}\n",
        )
        .expect("a trace");
        assert_eq!(trace.rows[0], Row { at: 0, input: 7, output: 3, says: None });
        assert_eq!(trace.rows[1], Row { at: SECOND / 2, input: 8, output: 4, says: Some(0) });
        let kind = Some((Some("a".to_owned()), "m".to_owned()));
        let scores = BTreeMap::from([("small".to_owned(), -0.25)]);
        assert_eq!(trace.says, [Details { kind, max_tokens: Some(9), scores }]);
        assert_eq!(trace.span(), SECOND);
    }

    #[test]
    fn what_is_wrong_is_named_with_file_line_and_field() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        let wrong = |text: &str| read(text).expect_err("refused");
        assert_eq!(wrong(""), "t: line 1: must be TIMESTAMP,ContextTokens,GeneratedTokens, or an object of JSON");
        assert_eq!(wrong("a,b\n1,2\n"), wrong(""));
        assert_eq!(wrong(header), "t: has no rows");
        assert_eq!(
            wrong(&format!("{header}2023-11-16 18:15:46,x,1\nyesterday,1,1\n2023-11-16 18:15:46,1\n")),
            "t: line 2: ContextTokens: \"x\" is not a whole number of tokens\n\
             t: line 3: TIMESTAMP: \"yesterday\" is not a time such as 2023-11-16 18:15:46.6805900\n\
             t: line 4: must have 3 fields, has 2"
        );
        assert_eq!(wrong(&format!("{header}{}", "x,1,1\n".repeat(99))).lines().count(), SHOWN);
        let json = wrong(
            "{\"at\": 1, \"inputTokens\": 1, \"outputTokens\": 1, \"more\": 1}\n{\"at\": -1, \"inputTokens\": 1, \"outputTokens\": 1}",
        );
        assert!(json.starts_with("t: line 1: more: unknown field `more`"), "{json}");
        assert!(
            json.ends_with("t: line 2: at: must be seconds from 0 on, or a time such as 2023-11-16T18:15:46Z"),
            "{json}"
        );
        let client = wrong("{\"at\": 1, \"inputTokens\": 1, \"outputTokens\": 1, \"client\": \"a\"}");
        assert_eq!(client, "t: line 1: client: needs model beside it");
    }
}
