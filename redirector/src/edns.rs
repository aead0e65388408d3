//! EDNS options that belong to a transport, not to an answer: put into finished replies.
//!
//! The general path makes the same reply for every transport. What a connection adds is told here on
//! the bytes: how long it may stay idle (RFC 7828), and padding that hides how long the answer is
//! (RFC 7830, in blocks as RFC 8467 recommends). A reply without an OPT record gets nothing, because
//! then the query had none.

use std::time::Duration;

const HEADER_LEN: usize = 12;
const TYPE_OPT: u16 = 41;
/// RFC 7828, 3.1.
const OPTION_KEEPALIVE: u16 = 11;
/// RFC 7830, 3.
const OPTION_PADDING: u16 = 12;
/// RFC 8467, 4.1: servers pad to multiples of 468 octets.
const PADDING_BLOCK: usize = 468;

/// Which of them a query has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// edns-tcp-keepalive.
    pub(crate) keepalive: bool,
    /// Padding.
    pub(crate) padding: bool,
}

/// Looks for the options in a query.
pub(crate) fn asked(query: &[u8]) -> Asked {
    let mut asked = Asked::default();
    let Some(opt) = find_opt(query) else { return asked };
    let mut options = query.get(opt.data..opt.data + opt.len).unwrap_or_default();
    while let Some((head, rest)) = options.split_first_chunk::<4>() {
        match u16::from_be_bytes([head[0], head[1]]) {
            OPTION_KEEPALIVE => asked.keepalive = true,
            OPTION_PADDING => asked.padding = true,
            _ => {}
        }
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        options = rest.get(len..).unwrap_or_default();
    }
    asked
}

/// Tells the client in `reply` that an idle connection is kept for `idle`; zero asks it to close.
pub(crate) fn tell_keepalive(reply: &mut Vec<u8>, idle: Duration) {
    // RFC 7828, 3.1: in units of 100 ms.
    let units = u16::try_from(idle.as_millis() / 100).unwrap_or(u16::MAX);
    append(reply, OPTION_KEEPALIVE, &units.to_be_bytes());
}

/// Pads `reply` to a whole number of blocks.
pub(crate) fn pad(reply: &mut Vec<u8>) {
    let padded = (reply.len() + 4).next_multiple_of(PADDING_BLOCK);
    let zeros = [0; PADDING_BLOCK];
    append(reply, OPTION_PADDING, &zeros[..padded - reply.len() - 4]);
}

/// Appends an option to the OPT record of a message, where that is the last record.
fn append(message: &mut Vec<u8>, code: u16, value: &[u8]) {
    let Some(opt) = find_opt(message) else { return };
    let Ok(len) = u16::try_from(opt.len + 4 + value.len()) else { return };
    if opt.data + opt.len != message.len() || message.len() + 4 + value.len() > usize::from(u16::MAX) {
        return;
    }
    message[opt.data - 2..opt.data].copy_from_slice(&len.to_be_bytes());
    message.extend(code.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
}

/// Where the data of an OPT record are.
struct Opt {
    data: usize,
    len: usize,
}

fn find_opt(message: &[u8]) -> Option<Opt> {
    let count = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let mut at = HEADER_LEN;
    for _ in 0..count(4)? {
        at = skip_name(message, at)? + 4;
    }
    for _ in 0..u32::from(count(6)?) + u32::from(count(8)?) + u32::from(count(10)?) {
        let owner = at;
        at = skip_name(message, at)?;
        let kind = count(at)?;
        let len = usize::from(count(at + 8)?);
        at += 10;
        if at + len > message.len() {
            return None;
        }
        if kind == TYPE_OPT && message[owner] == 0 {
            return Some(Opt { data: at, len });
        }
        at += len;
    }
    None
}

/// The place behind a name.
pub(crate) fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += usize::from(len) + 1,
            192.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_server::proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    use hickory_server::proto::rr::{Name, RecordType};

    fn message(options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("www.edge.example.org.").unwrap(), RecordType::A));
        let mut edns = Edns::new();
        for (code, value) in options {
            edns.options_mut().insert(EdnsOption::Unknown(*code, value.to_vec()));
        }
        message.edns = Some(edns);
        message.to_vec().unwrap()
    }

    #[test]
    fn options_are_found_and_told() {
        assert_eq!(asked(&message(&[])), Asked::default());
        assert_eq!(asked(&message(&[(11, &[]), (10, &[1; 8])])), Asked { keepalive: true, padding: false });
        assert_eq!(asked(&message(&[(12, &[0; 9])])), Asked { keepalive: false, padding: true });
        let mut reply = message(&[(10, &[1; 8])]);
        tell_keepalive(&mut reply, Duration::from_secs(10));
        pad(&mut reply);
        assert_eq!(reply.len(), 468);
        let read = Message::from_vec(&reply).unwrap();
        let option = |code: u16| match read.edns.as_ref().unwrap().option(EdnsCode::from(code)) {
            Some(EdnsOption::Unknown(_, value)) => value.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(option(11), 100u16.to_be_bytes());
        assert!(option(12).iter().all(|octet| *octet == 0));
    }

    #[test]
    fn what_has_no_opt_stays_as_it_is() {
        let mut plain = message(&[]);
        plain.truncate(plain.len() - 11);
        plain[11] = 0;
        let before = plain.clone();
        tell_keepalive(&mut plain, Duration::ZERO);
        pad(&mut plain);
        assert_eq!(plain, before);
        for len in 0..before.len() {
            asked(&message(&[(11, &[])])[..len]);
            find_opt(&before[..len]);
        }
    }
}
