//! Fakes and fixtures for tests: never in a release build.

pub mod apiserver;
