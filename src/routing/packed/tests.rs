use super::*;
use crate::operator::plan::table::compile;
use crate::routing::source::manifests::{Source, parse};

/// The quickstart's table with so many workloads, each with a path of eight steps, each with a schema of its own of about
/// so many bytes. Words are drawn, so that they compress no better than those of people.
fn portfolio(workloads: usize, schema: usize) -> RoutingTable {
    let text = include_str!("../../../tests/golden/quickstart/in.yaml").to_owned();
    let observed = parse(&[Source { name: "quickstart".into(), text }]).expect("manifests");
    let mut table = compile(&observed, "assistants").expect("a table").value;
    let mut state = 1_u64;
    let mut word = move || {
        let mut word = String::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.push(char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap_or_default()));
        }
        word
    };
    let vocabulary: Vec<String> = (0..400).map(|_| word()).collect();
    let mut at = 0;
    let mut known = move || {
        at = (at * 31 + 17) % 1_000_003;
        vocabulary[at % 400].clone()
    };
    let (first, path) = (table.workloads[0].clone(), table.paths["small-first"].clone());
    table.workloads.clear();
    for n in 0..workloads {
        let mut path = path.clone();
        path.steps = vec![path.steps[0].clone(); 8];
        for step in &mut path.steps {
            let mut inline = r#"{"type":"object","properties":{"#.to_owned();
            while inline.len() < schema {
                let (a, b, c) = (word(), known(), known());
                let _ = write!(inline, r#""{a}_{b}":{{"type":"string","description":"{c} {b} {a}"}},"#);
            }
            let inline = Some(inline.trim_end_matches(',').to_owned() + "}}");
            step.accept[1].check = crate::routing::table::Check::JsonSchema { inline };
        }
        let name = format!("path-{n}");
        table.workloads.push(crate::routing::table::Workload {
            name: format!("workload-{n}"),
            path: name.clone(),
            ..first.clone()
        });
        table.paths.insert(name, path);
    }
    table
}

fn packed(table: &RoutingTable) -> Result<(ConfigMap, String), TooLarge> {
    let (mut map, json) = (ConfigMap::default(), table.to_json());
    pack(&mut map, table, json.clone())?;
    let back = unpack(map.data.as_ref(), map.binary_data.as_ref()).expect("a table").expect("text");
    assert!(back == json, "unpacked it is another");
    Ok((map, json))
}

#[test]
fn a_small_table_is_text() {
    let (map, json) = packed(&portfolio(4, 500)).expect("it fits");
    assert!(json.len() < READABLE && map.binary_data.is_none(), "{}", json.len());
}

/// The most that a policy holds: 64 workloads with 8 steps each.
#[test]
fn a_whole_portfolio_with_schemas_fits() {
    for (schema, largest_text) in [(500, 900_000), (2_000, 2_000_000)] {
        let table = portfolio(64, schema);
        let (map, json) = packed(&table).expect("it fits");
        let bytes = map.binary_data.as_ref().expect("compressed")[GZIP].0.len();
        assert!(bytes < LARGEST && json.len() < largest_text, "{bytes} of {}", json.len());
        let summary = &map.data.expect("a summary")[SUMMARY];
        assert!(summary.contains("64 workloads") && summary.contains("workload-63: path-63: compact"), "{summary}");
        assert!(summary.contains(r"jsonpath='{.binaryData.table\.json\.gz}'"), "{summary}");
    }
}

#[test]
fn what_does_not_fit_says_how_large_it_is() {
    let refused = packed(&portfolio(64, 16_000)).expect_err("too large");
    assert!(refused.text > 8_000_000 && refused.packed > LARGEST, "{refused:?}");
}

#[test]
fn what_is_no_table_is_an_error_and_what_swells_is_cut() {
    let binary = |bytes| Some(BTreeMap::from([(GZIP.to_owned(), ByteString(bytes))]));
    assert!(unpack(None, binary(b"no gzip".to_vec()).as_ref()).expect("something").is_err());
    assert!(unpack(None, None).is_none());
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&vec![b' '; LONGEST + 1]).expect("written");
    let bomb = encoder.finish().expect("bytes");
    let error = unpack(None, binary(bomb).as_ref()).expect("something").expect_err("too long");
    assert!(error.to_string().contains("more than"), "{error}");
}
