//! EscalationPath: validate -> status. A path has no children: it is compiled into the tables that use it.

use jiff::Timestamp;

use super::queue::Key;
use super::{Context, Reconciled};
use crate::operator::observe::world::current;
use crate::operator::status::{self, Outcome};
use crate::operator::validate;

/// One look at a path.
pub fn reconcile(context: &Context, key: &Key) -> Reconciled {
    let Some(path) = current(&context.world.paths, &key.id) else {
        context.statuses.keep(key);
        return Reconciled::nothing();
    };
    let observed = context.world.namespace(&key.id.0);
    let outcome = match validate::path(&path, &observed) {
        Ok(valid) => Outcome {
            unresolved: valid.unresolved,
            warnings: validate::path_warnings(&path, &observed),
            ..Outcome::default()
        },
        Err(invalid) => Outcome { invalid: Some(invalid), ..Outcome::default() },
    };
    let new = status::path(&path, &outcome, Timestamp::now());
    Reconciled::ok().after(context.statuses.tell(key, &path, path.status.as_ref(), &new))
}
