//! The lock on a pin directory. Two agents with one directory would undo each other's writes.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::PinLockError;

/// A lock on a pin directory, which ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct PinLock {
    path: PathBuf,
    lock: Flock<File>,
}

impl PinLock {
    /// Locks a directory. Waits up to two seconds, for an agent that is about to end.
    ///
    /// # Errors
    /// [`PinLockError`].
    pub(crate) fn new(path: &Path) -> Result<Self, PinLockError> {
        const ATTEMPTS: u32 = 20;
        const PAUSE: Duration = Duration::from_millis(100);
        for _ in 1..ATTEMPTS {
            match Self::once(path) {
                Err(PinLockError::Taken(_)) => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
        Self::once(path)
    }

    fn once(path: &Path) -> Result<Self, PinLockError> {
        let failed = |source| PinLockError::Io {
            path: path.to_owned(),
            source,
        };
        let dir = File::open(path).map_err(failed)?;
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self {
                path: path.to_owned(),
                lock,
            }),
            Err((_, Errno::EWOULDBLOCK)) => Err(PinLockError::Taken(path.to_owned())),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }

    /// Locks the directory again, if it was removed and another one was made.
    ///
    /// # Errors
    /// [`PinLockError`], if another process locked it first.
    pub(crate) fn renew(&mut self) -> Result<(), PinLockError> {
        let number = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let locked = self.lock.metadata().map(number).ok();
        if std::fs::metadata(&self.path).map(number).ok() != locked {
            *self = Self::once(&self.path)?;
        }
        Ok(())
    }
}
