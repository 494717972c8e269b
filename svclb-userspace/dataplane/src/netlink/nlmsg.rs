//! Reading a reply of netlink: messages, each with a header, up to the one that ends it.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLMSG_ALIGNTO, NLMSG_DONE, NLMSG_ERROR, NLMSG_OVERRUN, NetlinkBuffer,
};
use zerocopy::FromBytes;

/// A request: a message with a header.
pub(super) fn request(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = HEADER + payload.len();
    let mut message = vec![0; HEADER];
    let mut header = NetlinkBuffer::new(&mut message);
    header.set_length(u32::try_from(length).map_err(io::Error::other)?);
    header.set_message_type(kind);
    header.set_flags(flags);
    header.set_sequence_number(sequence);
    message.extend_from_slice(payload);
    Ok(message)
}

/// The size of `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;

/// A reply that is being read.
pub(super) struct Reply {
    sequence: u32,
    interrupted: bool,
}

impl Reply {
    /// To the request of that number.
    pub(super) const fn new(sequence: u32) -> Self {
        let interrupted = false;
        Self {
            sequence,
            interrupted,
        }
    }

    /// Hands out the payloads in one datagram; `true` at the reply's end.
    pub(super) fn read(
        &mut self,
        mut datagram: &[u8],
        each: &mut impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        while !datagram.is_empty() {
            let message = NetlinkBuffer::new_checked(datagram)
                .map_err(|_length| malformed("a reply of the kernel is cut"))?;
            let length = message.length() as usize;
            datagram = datagram
                .get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..)
                .unwrap_or_default();
            if message.sequence_number() != self.sequence {
                // The reply to a request that was given up.
                continue;
            }
            self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            let payload = message.payload();
            match message.message_type() {
                // Both begin with an error number, negated, or zero.
                NLMSG_ERROR | NLMSG_DONE => {
                    let code = i32::read_from_prefix(payload).map_or(0, |(code, _)| code);
                    return self.end(code);
                }
                NLMSG_OVERRUN => return Err(malformed("the kernel lost a part of its reply")),
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

pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        request(kind, flags, sequence, payload).unwrap()
    }

    fn read(datagram: &[u8]) -> (io::Result<bool>, Vec<Vec<u8>>) {
        let mut payloads = Vec::new();
        let end = Reply::new(7).read(datagram, &mut |payload| payloads.push(payload.to_vec()));
        (end, payloads)
    }

    #[test]
    fn a_list_ends_with_done_and_what_is_of_another_request_is_passed_over() {
        let list = [
            message(20, 2, 7, b"abcd"),
            message(20, 2, 6, b"efgh"),
            message(NLMSG_DONE, 2, 7, &[0; 4]),
        ];
        let (end, payloads) = read(&list.concat());
        assert!(end.unwrap());
        assert_eq!(payloads, [b"abcd"]);
    }

    #[test]
    fn an_error_has_the_number_that_the_kernel_sent() {
        for kind in [NLMSG_ERROR, NLMSG_DONE] {
            let (end, _) = read(&message(kind, 0, 7, &(-2_i32).to_ne_bytes()));
            assert_eq!(end.unwrap_err().raw_os_error(), Some(2));
        }
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_void() {
        let list = [
            message(20, NLM_F_DUMP_INTR, 7, b""),
            message(NLMSG_DONE, 2, 7, &[0; 4]),
        ];
        let error = read(&list.concat()).0.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    }

    #[test]
    fn a_cut_reply_is_an_error_and_never_a_panic() {
        let whole = message(20, 2, 7, b"abcd");
        for len in 1..whole.len() {
            assert!(read(&whole[..len]).0.is_err(), "{len} bytes");
        }
        for fill in [0, 1, 0x7f, 0xff] {
            assert!(read(&[fill; 64]).0.is_err(), "filled with {fill}");
        }
    }
}
