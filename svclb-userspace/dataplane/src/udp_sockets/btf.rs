//! Two facts from the kernel's own BTF (Documentation/bpf/btf.rst), which describes its
//! types: a function's id and a field's offset. Host order.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// `struct btf_header`.
#[repr(C)]
#[derive(FromBytes, Immutable, KnownLayout)]
struct Header {
    magic: u16,
    version: u8,
    flags: u8,
    header_len: u32,
    types_at: u32,
    types_len: u32,
    strings_at: u32,
    strings_len: u32,
}

const MAGIC: u16 = 0xeb9f;

/// `struct btf_type`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct Type {
    name: u32,
    /// How many members in bits 0 to 15, the kind in bits 24 to 28.
    info: u32,
    size: u32,
}

/// `struct btf_member`, of a structure without bit fields.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
struct Member {
    name: u32,
    kind: u32,
    /// In bits.
    offset: u32,
}

const STRUCT: u32 = 4;
const FUNCTION: u32 = 12;

impl Type {
    const fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    /// How many bytes follow the type; `None` for an unknown kind.
    const fn extra(self) -> Option<usize> {
        let members = (self.info & 0xffff) as usize;
        match self.kind() {
            // Pointer, forward, typedef, volatile, const, restrict, function, float, tag.
            2 | 7..=12 | 16 | 18 => Some(0),
            // Integer, variable, declaration tag.
            1 | 14 | 17 => Some(4),
            // Array.
            3 => Some(12),
            // Structure, union, section, enum of 64 bits.
            4 | 5 | 15 | 19 => Some(12 * members),
            // Enum, prototype.
            6 | 13 => Some(8 * members),
            _ => None,
        }
    }
}

/// A kernel's types.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, _) = Header::read_from_prefix(bytes).ok()?;
        let body = bytes.get(header.header_len as usize..)?;
        let part = |at: u32, len: u32| body.get(at as usize..)?.get(..len as usize);
        (header.magic == MAGIC).then_some(Self {
            types: part(header.types_at, header.types_len)?,
            strings: part(header.strings_at, header.strings_len)?,
        })
    }

    /// The id of a function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        let mut all = self.types();
        all.find(|(_, kind, _)| kind.kind() == FUNCTION && self.is(kind.name, name))
            .map(|(id, ..)| id)
    }

    /// Where in a structure a field begins, in bytes.
    pub(super) fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        let mut all = self.types();
        let (.., members) =
            all.find(|(_, kind, _)| kind.kind() == STRUCT && self.is(kind.name, structure))?;
        members
            .chunks_exact(size_of::<Member>())
            .filter_map(|member| Member::read_from_bytes(member).ok())
            .find(|member| self.is(member.name, field))
            .map(|member| member.offset / 8)
    }

    /// Every type with its id (the first is 1) and what follows it.
    fn types(&self) -> impl Iterator<Item = (u32, Type, &'a [u8])> {
        let mut left = self.types;
        (1..).map_while(move |id| {
            let (kind, rest) = Type::read_from_prefix(left).ok()?;
            let (extra, next) = rest.split_at_checked(kind.extra()?)?;
            left = next;
            Some((id, kind, extra))
        })
    }

    fn is(&self, at: u32, name: &str) -> bool {
        let found = self.strings.get(at as usize..).unwrap_or_default();
        found
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.first() == Some(&0))
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn functions_and_fields_are_found_by_their_whole_names() {
        let strings = b"\0sock\0skc_a\0skc_ab\0run\0";
        let (types, members) = ([1, STRUCT << 24 | 2, 16], [12, 1, 0, 6, 1, 64]);
        // Before them an integer, to be passed over with what follows it.
        let integer = [1, 1 << 24, 4, 0];
        let words = [&integer[..], &types, &members, &[19, FUNCTION << 24, 0]].concat();
        // Magic and version, length of the header, place and length of types and strings.
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, 64, 64, 23];
        let bytes = [header.as_bytes(), words.as_bytes(), strings].concat();
        let btf = Btf::read(&bytes).unwrap();
        assert_eq!(btf.function("run"), Some(3));
        assert_eq!(btf.function("ru"), None);
        assert_eq!(btf.offset("sock", "skc_a"), Some(8));
        assert_eq!(btf.offset("sock", "skc_ab"), Some(0));
        assert_eq!(btf.offset("sock", "other"), None);
        for len in 0..bytes.len() {
            assert!(Btf::read(&bytes[..len]).is_none(), "{len} bytes");
        }
    }
}
