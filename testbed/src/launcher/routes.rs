//! The routers around home agents: what a home agent announces, the fabric carries.
//!
//! A home agent writes what it announces to a file as it would to ExaBGP, one command a line:
//! `announce route 198.18.255.1/32 next-hop self`, `withdraw route …`. When its process is gone, the
//! session with its routers is, and with it all that it announced.

use super::member::Members;
use crate::address::is_home;
use crate::fabric::{Announcement, FabricHandle};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::Path;

/// So much is read of a file at a time; an announcement has at most 80 octets.
const READ_MAX: u64 = 64 * 1024;

/// What was read of each home agent.
#[derive(Debug, Default)]
pub(super) struct Routes {
    sessions: BTreeMap<usize, Session>,
}

#[derive(Debug, Default)]
struct Session {
    /// How much of the file has been read; `None`: what is there is not of this session.
    at: Option<u64>,
    up: bool,
}

impl Routes {
    /// Looks what the home agents have announced since the last time.
    pub(super) fn look(&mut self, members: &Members, agents: &[usize], fabric: &FabricHandle) {
        for host in agents {
            let session = self.sessions.entry(*host).or_default();
            let (process, _) = members.process(*host);
            let number = *host as u16;
            if process.is_none() {
                if std::mem::take(&mut session.up) {
                    fabric.withdraw_all(number);
                }
                session.at = None;
                continue;
            }
            session.up = true;
            let Ok(text) = session.read(&members.layout(*host).announcements()) else { continue };
            for (address, announced) in text.lines().filter_map(parse) {
                fabric.announce(Announcement { address, host: number, announced });
            }
        }
    }
}

impl Session {
    /// Whole lines that are new.
    fn read(&mut self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let at = self.at.unwrap_or(len).min(len);
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(READ_MAX).read_to_end(&mut bytes)?;
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1));
        self.at = Some(at + bytes.len() as u64);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Which address is announced or withdrawn; `None` for what is no home address of the testbed.
fn parse(line: &str) -> Option<(IpAddr, bool)> {
    let mut words = line.split_whitespace();
    let announced = match words.next()? {
        "announce" => true,
        "withdraw" => false,
        _ => return None,
    };
    let net = words.nth(1)?;
    let net: IpNet = net.parse().ok().or_else(|| net.parse::<IpAddr>().ok().map(IpNet::from))?;
    let single = net.prefix_len() == net.max_prefix_len();
    (single && is_home(net.addr())).then_some((net.addr(), announced))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_are_read_as_exabgp_reads_them() {
        let home: IpAddr = "198.18.255.3".parse().unwrap();
        assert_eq!(parse("announce route 198.18.255.3/32 next-hop self"), Some((home, true)));
        assert_eq!(parse("withdraw route 198.18.255.3/32 next-hop self"), Some((home, false)));
        assert_eq!(parse("announce route fd67:7764:3000::9/128 next-hop self").map(|(_, on)| on), Some(true));
        for other in ["", "announce", "announce route 10.0.0.1/32", "announce route 198.18.255.0/24", "hello"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn half_a_line_waits_for_the_rest() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut session = Session { at: Some(0), up: true };
        file.write_all(b"announce route a\nannou").unwrap();
        assert_eq!(session.read(file.path()).unwrap(), "announce route a\n");
        assert_eq!(session.read(file.path()).unwrap(), "");
        file.write_all(b"nce route b\n").unwrap();
        assert_eq!(session.read(file.path()).unwrap(), "announce route b\n");
        session.at = None;
        assert_eq!(session.read(file.path()).unwrap(), "", "another process says its own");
    }
}
