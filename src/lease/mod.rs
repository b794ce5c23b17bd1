//! What routers share: limits and budgets of which each holds a part that the operator lends it. Pure: both planes use it.

pub mod budget;
