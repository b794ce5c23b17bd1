//! Pure: a resource and what it refers to -> a validated form, or a terminal reason.
