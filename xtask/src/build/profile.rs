//! What a build is for.

/// What a build is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised; the programs say nothing.
    Release,
    /// With debug assertions, and programs that log each call that they change.
    Debug,
    /// As a release, with the layouts of the next version: something that tests can upgrade to.
    Next,
}
