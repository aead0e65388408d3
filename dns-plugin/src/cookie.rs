//! DNS cookies (RFC 7873) that any redirector with the same secret makes and checks alike (RFC 9018).
//!
//! ```text
//!   0 ┌───────────────────────────────┐
//!     │         client cookie         │  8 octets of the client's choice
//!   8 ├───────┬───────────────────────┤
//!     │ 1     │ 0                     │  version, reserved
//!  12 ├───────┴───────────────────────┤
//!     │ seconds since 1970, mod 2^32  │
//!  16 ├───────────────────────────────┤
//!     │ SipHash-2-4 of all the above  │
//!     │ and the client's address      │
//!  24 └───────────────────────────────┘
//! ```
//!
//! Who shows a server cookie of ours has received a packet from us at the address it claims: it is no
//! forger, and neither rate nor length of replies is limited for it. A cookie that is wrong or old is
//! treated as none, and a good one comes with the reply (RFC 7873, 5.2.4, third choice): BADCOOKIE
//! would cost an honest client whose address changed a round trip and protect nobody, since replies
//! to those without a cookie are limited anyway.

use std::net::IpAddr;

/// RFC 7873, 4: the length of a client cookie.
const CLIENT_LEN: usize = 8;
/// Client and server cookie together (RFC 9018, 4).
pub const COOKIE_LEN: usize = 24;
/// RFC 9018, 4.3: a server cookie is good for an hour,
const AGE_MAX: u32 = 3600;
/// and may be from five minutes ahead, as clocks differ;
const AHEAD_MAX: u32 = 300;
/// after half an hour the client is given a new one.
const AGE_RENEW: u32 = 1800;
/// A current secret, one before, one to come.
const SECRETS_MAX: usize = 3;

/// A COOKIE option as it came; sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    bytes: [u8; COOKIE_LEN],
    /// Whether there was a server cookie of the length of ours.
    server: bool,
}

/// What a cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Whether the client has shown that it receives packets at its address.
    pub proven: bool,
    /// The cookie to reply with.
    pub reply: [u8; COOKIE_LEN],
}

/// The secrets with which server cookies are made: 128 bits each.
#[derive(Clone)]
pub struct Secrets {
    /// The first signs, all verify; one to three.
    keys: Vec<(u64, u64)>,
}

impl Cookie {
    /// Reads the value of a COOKIE option. RFC 7873, 4 and 5.2.2: 8 octets, or 16 to 40.
    pub(crate) fn read(value: &[u8]) -> Option<Cookie> {
        let mut bytes = [0; COOKIE_LEN];
        bytes[..CLIENT_LEN].copy_from_slice(value.first_chunk::<CLIENT_LEN>()?);
        match value.len() {
            CLIENT_LEN => Some(Cookie { bytes, server: false }),
            COOKIE_LEN => Some(Cookie { bytes: *value.first_chunk()?, server: true }),
            // Somebody else's server cookie.
            16..=40 => Some(Cookie { bytes, server: false }),
            _ => None,
        }
    }
}

impl Secrets {
    /// With these secrets; the first makes new cookies, all verify. To change the secret without
    /// anybody noticing (RFC 9018, 5): add the new one last everywhere, then put it first everywhere,
    /// then after an hour remove the old one. `None` without any; more than three are ignored.
    pub fn new(secrets: &[[u8; 16]]) -> Option<Secrets> {
        let half = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let keys: Vec<_> = secrets.iter().take(SECRETS_MAX).map(|s| (half(s), half(&s[8..]))).collect();
        (!keys.is_empty()).then_some(Secrets { keys })
    }

    /// Verifies a cookie from `client` at `now` (seconds since 1970, modulo 2^32).
    pub fn verify(&self, now: u32, cookie: &Cookie, client: IpAddr) -> Verified {
        let client = client.to_canonical();
        let made =
            u32::from_be_bytes([cookie.bytes[12], cookie.bytes[13], cookie.bytes[14], cookie.bytes[15]]);
        // RFC 9018, 4.3: serial number arithmetic, so that 2106 is a year like any other.
        let age = now.wrapping_sub(made) as i32;
        let timely = age <= AGE_MAX as i32 && age >= -(AHEAD_MAX as i32);
        let signer = |key: &&(u64, u64)| same(&cookie.bytes[16..], &hash(**key, &cookie.bytes, client));
        let signed = if cookie.server && cookie.bytes[8] == 1 && timely {
            self.keys.iter().find(signer)
        } else {
            None
        };
        let proven = signed.is_some();
        let current = signed == self.keys.first() && cookie.bytes[9..12] == [0; 3];
        if proven && current && age <= AGE_RENEW as i32 {
            return Verified { proven, reply: cookie.bytes };
        }
        let mut reply = cookie.bytes;
        reply[8..12].copy_from_slice(&[1, 0, 0, 0]);
        reply[12..16].copy_from_slice(&now.to_be_bytes());
        let hash = hash(self.keys[0], &reply, client);
        reply[16..].copy_from_slice(&hash);
        Verified { proven, reply }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.keys.len())
    }
}

/// Without telling by the time it takes how much is the same.
fn same(a: &[u8], b: &[u8; 8]) -> bool {
    a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

/// RFC 9018, 4.4: over client cookie, version, reserved, time and address.
fn hash(key: (u64, u64), cookie: &[u8; COOKIE_LEN], client: IpAddr) -> [u8; 8] {
    let mut message = [0; 32];
    message[..16].copy_from_slice(&cookie[..16]);
    let len = match client {
        IpAddr::V4(address) => {
            message[16..20].copy_from_slice(&address.octets());
            20
        }
        IpAddr::V6(address) => {
            message[16..].copy_from_slice(&address.octets());
            32
        }
    };
    siphash(key, &message[..len]).to_le_bytes()
}

/// SipHash-2-4 (Aumasson and Bernstein, 2012).
fn siphash((k0, k1): (u64, u64), message: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = message.as_chunks::<8>();
    for word in words {
        compress(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = message.len() as u8;
    compress(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xff;
    (0..4).for_each(|_| round(&mut v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn compress(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).unwrap())
    }

    fn secrets(hex: &[&str]) -> Secrets {
        Secrets::new(&hex.iter().map(|hex| bytes(hex)).collect::<Vec<_>>()).unwrap()
    }

    fn read(hex: &str) -> Cookie {
        let all: Vec<u8> =
            (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..][..2], 16).unwrap()).collect();
        Cookie::read(&all).unwrap()
    }

    const FIRST: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";
    const SECOND: &str = "445536bcd2513298075a5d379663c962";
    const THIRD: &str = "dd3bdf9344b678b185a6f5cb60fca715";

    #[track_caller]
    fn check(secret: &[&str], now: u32, cookie: &str, client: &str, proven: bool, reply: &str) {
        let verified = secrets(secret).verify(now, &read(cookie), client.parse().unwrap());
        assert_eq!(verified, Verified { proven, reply: bytes(reply) });
    }

    #[test]
    fn rfc9018_a_1_learning_a_new_server_cookie() {
        let reply = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
        check(&[FIRST], 1_559_731_985, "2464c4abcf10c957", "198.51.100.100", false, reply);
        // RFC 9018, 4.3: not made anew within half an hour.
        check(&[FIRST], 1_559_732_585, reply, "198.51.100.100", true, reply);
    }

    #[test]
    fn rfc9018_a_2_the_same_client_learning_a_renewed_server_cookie() {
        let reply = "2464c4abcf10c957010000005cf7a871d4a564a1442aca77";
        let old = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
        check(&[FIRST], 1_559_734_385, old, "198.51.100.100", true, reply);
    }

    #[test]
    fn rfc9018_a_3_another_client_learning_a_renewed_server_cookie() {
        let old = "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5";
        let reply = "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e";
        // Nearly two hours old: it is renewed but proves nothing. The reserved octets are hashed too.
        check(&[FIRST], 1_559_734_700, old, "203.0.113.203", false, reply);
        let client = "203.0.113.203".parse().unwrap();
        assert!(secrets(&[FIRST]).verify(0x5cf7_8f71, &read(old), client).proven);
    }

    #[test]
    fn rfc9018_a_4_ipv6_query_with_rolled_over_secret() {
        let old = "22681ab97d52c298010000005cf7c57926556bd0934c72f8";
        let reply = "22681ab97d52c298010000005cf7c609a6bb79d16625507a";
        check(&[SECOND, THIRD], 1_559_741_961, old, "2001:db8:220:1:59de:d0f4:8769:82b8", true, reply);
    }

    #[test]
    fn what_is_not_ours_or_not_in_time_proves_nothing() {
        let good = "2464c4abcf10c957010000005cf79f111f8130c3eee29480";
        let made = 0x5cf7_9f11;
        let proven = |secret: &str, now: u32, cookie: &str, client: &str| {
            secrets(&[secret]).verify(now, &read(cookie), client.parse().unwrap()).proven
        };
        assert!(proven(FIRST, made + 3600, good, "198.51.100.100"));
        assert!(proven(FIRST, made, good, "::ffff:198.51.100.100"));
        assert!(proven(FIRST, made - 300, good, "198.51.100.100"));
        assert!(!proven(FIRST, made + 3601, good, "198.51.100.100"));
        assert!(!proven(FIRST, made - 301, good, "198.51.100.100"));
        assert!(!proven(FIRST, made, good, "198.51.100.101"));
        assert!(!proven(SECOND, made, good, "198.51.100.100"));
        assert!(!proven(FIRST, made, &good.replace("9480", "9481"), "198.51.100.100"));
        assert!(!proven(FIRST, made, &good.replace("2464", "2465"), "198.51.100.100"));
    }

    #[test]
    fn rfc7873_5_2_2_lengths_that_no_cookie_has() {
        for len in 0..64 {
            let sound = len == 8 || (16..=40).contains(&len);
            assert_eq!(Cookie::read(&vec![1; len]).is_some(), sound, "{len}");
        }
    }
}
