//! CSV as Azure publishes it (Azure/AzurePublicDataset, CC-BY-4.0).

use std::io::BufRead;

use super::{Reading, Row, time};

const FIELDS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

pub(super) fn read(text: impl BufRead, into: &mut Reading<'_>) {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
    let header = reader.headers().is_ok_and(|header| header.iter().map(str::trim).eq(FIELDS));
    if !header {
        into.wrong(1, "must be TIMESTAMP,ContextTokens,GeneratedTokens, or an object of JSON");
        return;
    }
    let mut record = csv::StringRecord::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                into.wrong(line, &error.to_string());
                return;
            }
        }
        match row(&record) {
            Ok(row) => into.trace.rows.push(row),
            Err(problem) => {
                let line = record.position().map_or(line, csv::Position::line);
                if !into.wrong(line, &problem) {
                    return;
                }
            }
        }
    }
}

fn row(record: &csv::StringRecord) -> Result<Row, String> {
    let mut fields = record.iter().map(str::trim);
    let (Some(at), Some(input), Some(output), None) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(format!("must have {} fields, has {}", FIELDS.len(), record.len()));
    };
    let tokens = |field: &str, text: &str| {
        text.parse::<u32>().map_err(|_| format!("{field}: {text:?} is not a whole number of tokens"))
    };
    let when =
        time(at).ok_or_else(|| format!("TIMESTAMP: {at:?} is not a time such as 2023-11-16 18:15:46.6805900"))?;
    Ok(Row { at: when, input: tokens(FIELDS[1], input)?, output: tokens(FIELDS[2], output)?, says: None })
}
