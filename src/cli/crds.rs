//! `smallfirst crds`: the CustomResourceDefinitions of this very binary.
//!
//! The Rust types are the one source; `crds/` and the CRD chart hold what this command prints, and
//! `make check` fails when they differ.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use crate::api::crd;
use crate::yaml;

const HEADER: &str = "# Generated from the Rust types by `make crds`. Do not edit.\n";

/// What `smallfirst crds` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: smallfirst crds | kubectl apply --server-side -f -")]
pub struct Args {
    /// Write one file per kind into this folder instead of printing
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Write them as Helm templates that stay when the release is uninstalled
    #[arg(long)]
    helm: bool,
}

/// Prints or writes the definitions.
///
/// # Errors
/// When standard output or the folder cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let files = render(args.helm)?;
    match &args.output_dir {
        Some(dir) => write_files(dir, &files)?,
        None => {
            let mut out = io::stdout().lock();
            for (_, text) in &files {
                write!(out, "---\n{text}")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// File name and text of every definition.
fn render(helm: bool) -> anyhow::Result<Vec<(String, String)>> {
    crd::all()
        .into_iter()
        .map(|mut definition| {
            let name = definition
                .pointer("/spec/names/plural")
                .and_then(Value::as_str)
                .context("a definition without a plural name")?
                .to_owned();
            if helm {
                definition["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
            }
            let mut text = yaml::to_string(&definition)?;
            if helm {
                text = escape_template(&text);
            }
            Ok((format!("{name}.yaml"), format!("{HEADER}{text}")))
        })
        .collect()
}

/// Helm would otherwise run what a description or rule has in double braces.
fn escape_template(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}

fn write_files(dir: &Path, files: &[(String, String)]) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for (name, text) in files {
        let path = dir.join(name);
        // Untouched when equal, so that a build that watches time stamps does no work.
        if fs::read_to_string(&path).is_ok_and(|old| old == *text) {
            continue;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_file_and_parses_back() {
        let files = render(false).expect("renders");
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["modeltiers.yaml", "escalationpaths.yaml", "routingpolicies.yaml"]);
        for ((_, text), expected) in files.iter().zip(crd::all()) {
            assert_eq!(yaml::documents(text).expect("YAML"), [expected]);
        }
    }

    #[test]
    fn the_generated_files_are_what_the_types_say() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let files = render(false).expect("renders");
        for (name, text) in &files {
            let stored = fs::read_to_string(folder.join(name)).expect("a generated file");
            assert!(stored == *text, "crds/{name} is not what the types say: run 'make crds' and commit");
        }
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), files.len(), "crds/ has a file of no kind");
    }

    #[test]
    fn the_chart_keeps_the_definitions_on_uninstall() {
        for (_, text) in render(true).expect("renders") {
            assert!(text.contains("helm.sh/resource-policy: keep"));
        }
    }

    #[test]
    fn braces_reach_the_cluster_as_written() {
        assert_eq!(escape_template("a {{ b }}"), "a {{ \"{{\" }} b }}");
    }
}
