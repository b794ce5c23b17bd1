//! What commands that read manifests share: the policy among them, compiled.

use crate::operator::observe::Observed;
use crate::operator::plan::table;
use crate::routing::RoutingTable;

/// The table of a policy, or of the only one there is, for one process that holds the whole of every limit.
///
/// # Errors
/// When there is no such policy, or it does not compile as a whole.
pub fn policy(observed: &Observed, name: Option<&str>) -> anyhow::Result<RoutingTable> {
    let name = match name {
        Some(name) => name,
        None => {
            let mut names = observed.policies.keys();
            match (names.next(), names.next()) {
                (Some(only), None) => only,
                (None, _) => anyhow::bail!("no RoutingPolicy among the manifests"),
                _ => anyhow::bail!("more than one RoutingPolicy: choose with --policy"),
            }
        }
    };
    let compiled = table::compile(observed, name).map_err(|invalid| anyhow::anyhow!("{}", invalid.message))?;
    if let Some(left_out) = compiled.unresolved {
        anyhow::bail!("{}", left_out.message);
    }
    let mut table = compiled.value;
    table.routers = 1;
    Ok(table)
}
