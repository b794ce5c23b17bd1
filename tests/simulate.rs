//! `smallfirst simulate` as people run it: files written, exit codes, and messages that say where and what.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Runs it on the example, with flags that come last and so win.
fn simulate(output: &Path, more: &[&str]) -> Output {
    let example = |file: &str| format!("{ROOT}/examples/simulate/{file}");
    let trace = format!("{ROOT}/tests/data/azure-conv-1000.csv");
    let mut command = Command::new(env!("CARGO_BIN_EXE_smallfirst"));
    command.arg("simulate").arg("--output").arg(output);
    let flag = |name: &str| more.contains(&name);
    if !flag("--trace") {
        command.args(["--trace", &trace]);
    }
    if !flag("--scenario") {
        command.args(["--scenario", &example("scenario.yaml")]);
    }
    if !more.first().is_some_and(|word| word.ends_with(".yaml")) {
        command.arg(example("portfolio.yaml"));
    }
    command.args(more).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_report_its_data_and_its_plots_are_written_and_nothing_else_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("a/b");
    let done = simulate(&output, &["--scale", "0.5", "--seed", "9"]);
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), ""), "no progress where there is no terminal");
    let report = output.join("report.md");
    assert_eq!(text(&done.stdout).trim(), report.display().to_string());
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("seed 9") && report.contains("at scale 1.5"), "{report}");
    assert!(report.contains("| FixedPools |"), "{report}");
    let data: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(output.join("report.json")).unwrap()).unwrap();
    assert!(data["runs"][0]["total"]["arrived"].as_u64() > Some(1_000));
    // The report links what is there.
    let links: Vec<&str> = report.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(links.len() >= 8, "{links:?}");
    for link in links {
        assert!(fs::read_to_string(output.join(link)).unwrap().starts_with("<svg"), "{link}");
    }
}

#[test]
fn what_is_wrong_is_said_with_file_and_place_and_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let example = |name: &str| fs::read_to_string(format!("{ROOT}/examples/simulate/{name}")).unwrap();
    let said = |more: &[&str]| {
        let output = folder.path().join("never");
        let done = simulate(&output, more);
        assert_eq!(done.status.code(), Some(1), "{more:?}");
        assert!(!output.exists(), "nothing is written of a run that was refused");
        text(&done.stderr).to_owned()
    };
    let trace = file("trace.csv", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,ten,1\n");
    assert_eq!(
        said(&["--trace", &trace]),
        format!("error: {trace}: line 2: ContextTokens: \"ten\" is not a whole number of tokens\n")
    );
    let scenario = file("scenario.yaml", &example("scenario.yaml").replace("alpha: 0.008", "alpha: fast"));
    assert!(said(&["--scenario", &scenario]).starts_with(&format!("error: {scenario}: tiers.compact.curve.alpha: ")));
    let scenario = file("other.yaml", &example("scenario.yaml").replace("model: draft", "model: drift"));
    assert!(said(&["--scenario", &scenario]).starts_with(&format!("error: {scenario}: requests[1].model: ")));
    let manifest = file("portfolio.yaml", &example("portfolio.yaml").replacen("class: Small", "class: Tiny", 1));
    assert!(
        said(&[&manifest]).starts_with(&format!("error: {manifest}: document 1 (ModelTier compact): spec.class: "))
    );
    let missing = folder.path().join("missing.csv").display().to_string();
    assert!(said(&["--trace", &missing]).starts_with(&format!("error: {missing}: No such file")));
    assert_eq!(said(&["--policy", "other"]).lines().count(), 1);
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    for more in [["--scale", "0"], ["--scale", "many"], ["--seed", "none"]] {
        let done = simulate(folder.path(), &more);
        assert_eq!(done.status.code(), Some(2), "{more:?}");
        assert!(text(&done.stderr).contains(more[0]), "{}", text(&done.stderr));
    }
}
