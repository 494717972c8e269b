//! Network namespaces that have a name: a namespace belongs to a thread, so everything
//! here happens on threads of its own and never changes the caller's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::ip;

/// Where `ip netns` looks for names too.
pub(crate) const DIR: &str = "/run/netns";

/// A network namespace held by a bind mount below [`DIR`]. It goes with its lab.
#[derive(Clone, Debug)]
pub(crate) struct Netns {
    path: PathBuf,
}

impl Netns {
    /// Makes a new, empty namespace.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let path = Path::new(DIR).join(name);
        // The last namespace of another lab may take the folder away in between.
        in_folder(Path::new(DIR), || File::create_new(&path).map(drop))
            .with_context(|| format!("cannot create {}", path.display()))?;
        let netns = Self { path };
        let target = netns.path.clone();
        on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("cannot bind a namespace to {}", target.display()))
        })?;
        Ok(netns)
    }

    /// Sets up what every namespace needs: the loopback device, and IPv6 addresses that
    /// can be used at once.
    pub(crate) fn start(&self) -> Result<()> {
        self.run(|| {
            ip::sysctl("net/ipv6/conf/all/accept_dad", "0")?;
            ip::sysctl("net/ipv6/conf/default/accept_dad", "0")?;
            ip::batch(&["link set lo up".to_owned()])
        })
    }

    /// The path that names it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs something on a thread inside the namespace.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = &self.path;
        on_thread(move || {
            enter(path)?;
            work()
        })
    }
}

/// Runs something on a thread in a new namespace, which goes with it.
pub(crate) fn on_thread_apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        work()
    })
}

/// Moves the calling thread into a namespace.
pub(crate) fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {}", path.display()))
}

/// Removes the name of a namespace, and [`DIR`] with the last one.
pub(crate) fn remove(path: &Path) {
    // EINVAL: never mounted, since making it failed half-way.
    umount2(path, MntFlags::MNT_DETACH).ok();
    if let Err(error) = fs::remove_file(path) {
        eprintln!("lab: cannot remove {}: {error}", path.display());
    }
    // Fails while others use it, as it should.
    drop(fs::remove_dir(DIR));
}

/// Makes something in a folder that others remove when it is empty.
pub(crate) fn in_folder(folder: &Path, mut make: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..100 {
        fs::create_dir_all(folder).or_else(unless_missing)?;
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    make()
}

fn unless_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound {
        return Ok(());
    }
    Err(error)
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .map_err(|_panic| anyhow!("a thread of the lab panicked"))?
    })
}
