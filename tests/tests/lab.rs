//! What svclb promises, with real sockets on this machine's kernel, in labs.
//!
//! Needs root, `ip`, and (all but the module `itself`) the binary that `cargo xtask
//! build` makes. The scenarios run one at a time, whatever `--test-threads` says: each
//! takes [`scene::turn`], since they measure time and share two cores.

mod lab {
    mod itself;
    mod scene;
}
