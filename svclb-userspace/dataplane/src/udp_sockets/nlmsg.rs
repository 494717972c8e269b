//! Reading an answer of netlink: messages, each with a header, up to the one that ends it.
//! The numbers are those of include/uapi/linux/netlink.h.

use std::io;

use zerocopy::FromBytes;

use super::header::Header;

/// `NLMSG_ALIGNTO`: what messages are padded to.
const ALIGNMENT: usize = 4;
/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`, `NLMSG_DONE` and `NLMSG_OVERRUN`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const OVERRUN: u16 = 4;

/// An answer that is being read.
pub(super) struct Answer {
    sequence: u32,
    interrupted: bool,
}

impl Answer {
    /// To the request of that number.
    pub(super) const fn new(sequence: u32) -> Self {
        let interrupted = false;
        Self {
            sequence,
            interrupted,
        }
    }

    /// Hands out the payloads in one datagram; `true` at the answer's end.
    pub(super) fn read(
        &mut self,
        mut datagram: &[u8],
        each: &mut impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        while !datagram.is_empty() {
            let (header, payload, rest) =
                split(datagram).ok_or_else(|| malformed("an answer of the kernel is cut"))?;
            datagram = rest;
            if header.sequence != self.sequence {
                // To a request that was given up.
                continue;
            }
            self.interrupted |= header.flags & INTERRUPTED != 0;
            match header.kind {
                // Both begin with an error number, negated, or zero.
                ERROR | DONE => {
                    let code = i32::read_from_prefix(payload).map_or(0, |(code, _)| code);
                    return self.end(code);
                }
                OVERRUN => return Err(malformed("the kernel lost a part of its answer")),
                _ => each(payload),
            }
        }
        Ok(false)
    }

    fn end(&self, code: i32) -> io::Result<bool> {
        if code < 0 {
            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
        }
        if self.interrupted {
            let what = "the sockets changed while they were listed";
            return Err(io::Error::new(io::ErrorKind::Interrupted, what));
        }
        Ok(true)
    }
}

/// The first message, its payload, and what follows it.
fn split(datagram: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let (header, rest) = Header::read_from_prefix(datagram).ok()?;
    let len = (header.len as usize).checked_sub(size_of::<Header>())?;
    let payload = rest.get(..len)?;
    let next = rest.get(len.next_multiple_of(ALIGNMENT)..);
    Some((header, payload, next.unwrap_or_default()))
}

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            len: u32::try_from(16 + payload.len()).unwrap(),
            kind,
            flags,
            sequence,
            port: 0,
        };
        [header.as_bytes(), payload].concat()
    }

    fn read(datagram: &[u8]) -> (io::Result<bool>, Vec<Vec<u8>>) {
        let mut payloads = Vec::new();
        let end = Answer::new(7).read(datagram, &mut |payload| payloads.push(payload.to_vec()));
        (end, payloads)
    }

    #[test]
    fn a_list_ends_with_done_and_what_is_of_another_request_is_passed_over() {
        let list = [
            message(20, 2, 7, b"abcd"),
            message(20, 2, 6, b"efgh"),
            message(DONE, 2, 7, &[0; 4]),
        ];
        let (end, payloads) = read(&list.concat());
        assert!(end.unwrap());
        assert_eq!(payloads, [b"abcd"]);
    }

    #[test]
    fn an_error_is_told_with_its_number() {
        for kind in [ERROR, DONE] {
            let (end, _) = read(&message(kind, 0, 7, &(-2_i32).to_ne_bytes()));
            assert_eq!(end.unwrap_err().raw_os_error(), Some(2));
        }
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_void() {
        let list = [
            message(20, INTERRUPTED, 7, b""),
            message(DONE, 2, 7, &[0; 4]),
        ];
        let error = read(&list.concat()).0.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_cut_answer_is_an_error_and_never_a_panic() {
        let whole = message(20, 2, 7, b"abcd");
        for len in 1..whole.len() {
            assert!(read(&whole[..len]).0.is_err(), "{len} bytes");
        }
        for fill in [0, 1, 0x7f, 0xff] {
            assert!(read(&[fill; 64]).0.is_err(), "filled with {fill}");
        }
    }
}
