//! The limit of file descriptors.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The usual soft limit.
pub(super) const USUAL: u64 = 1024;

/// How many connections clients outside the node may have at once, if there are descriptors
/// enough.
const CONNECTIONS: u64 = 256;

/// Raises the soft limit, which is often 1,024 for the sake of programs with `select`, to the hard
/// one. Returns the limit that there is now.
pub(super) fn raise_limit() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// How many connections clients outside the node may have at once with this limit of
/// descriptors: so few that the agent's own work has enough of them.
pub(super) fn for_clients(limit: u64) -> usize {
    let connections = (limit / 8).clamp(1, CONNECTIONS);
    usize::try_from(connections).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, hard - 1, hard).unwrap();
        assert_eq!(raise_limit(), Ok(hard));
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE), Ok((hard, hard)));
        assert_eq!(raise_limit(), Ok(hard), "nothing to raise");
    }

    #[test]
    fn clients_have_a_small_part_of_the_descriptors() {
        assert_eq!([1, 64, 1024].map(for_clients), [1, 8, 128]);
        assert_eq!([4096, 1 << 20, u64::MAX].map(for_clients), [256; 3]);
    }
}
