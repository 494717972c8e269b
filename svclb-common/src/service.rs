//! The owner of a service id: what makes a dump readable and ids stable over restarts.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Proto;

/// A Kubernetes name of at most 63 bytes (DNS label, RFC 1123 section 2.1).
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Label {
    len: u8,
    bytes: [u8; 63],
}

/// A name longer than the 63 bytes that Kubernetes allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelTooLong;

impl Label {
    /// From a string.
    ///
    /// # Errors
    /// [`LabelTooLong`] over 63 bytes.
    pub fn new(text: &str) -> Result<Self, LabelTooLong> {
        let mut bytes = [0; 63];
        bytes
            .get_mut(..text.len())
            .ok_or(LabelTooLong)?
            .copy_from_slice(text.as_bytes());
        let len = u8::try_from(text.len()).or(Err(LabelTooLong))?;
        Ok(Self { len, bytes })
    }

    /// The text; empty if the bytes are not what [`new`](Self::new) writes.
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..usize::from(self.len))
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// An address family of a Service (`Service.spec.ipFamilies[]`): 4 or 6.
#[repr(transparent)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ServiceFamily(u8);

impl ServiceFamily {
    /// IPv4.
    pub const V4: Self = Self(4);
    /// IPv6.
    pub const V6: Self = Self(6);

    /// 4 or 6.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// The name as Kubernetes writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            _ => "unknown",
        }
    }
}

impl fmt::Debug for ServiceFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Value of `SERVICES`, keyed by [`ServiceId`](crate::ServiceId): 196 bytes. Only the agent reads it.
///
/// It names the owner of an id: one port of one Service in one address family. Written
/// before anything else of the service, removed last, after the quarantine: while it stands, the
/// id is taken.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ServiceRecord {
    /// `metadata.namespace`.
    pub namespace: Label,
    /// `metadata.name`.
    pub name: Label,
    /// `spec.ports[].name`; empty for an unnamed port.
    pub port_name: Label,
    /// `spec.ports[].protocol`.
    pub proto: Proto,
    /// The family of the frontends and backends.
    pub family: ServiceFamily,
    /// Always zero.
    pub reserved: [u8; 2],
}

impl fmt::Display for ServiceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port_name.as_str().is_empty() {
            write!(f, ":{}", self.port_name)?;
        }
        write!(f, "/{}/{}", self.proto, self.family.name())
    }
}

impl fmt::Debug for ServiceRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

const _: () = assert!(core::mem::size_of::<ServiceRecord>() == 196);
