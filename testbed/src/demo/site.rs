//! The site that the demo publishes: forty files whose every byte follows from version and name, so
//! that whoever fetches one can tell whether it is right.

use anyhow::Context;
use std::path::Path;

/// How many files it has.
pub const FILES: usize = 40;

/// The name of the long file of another site.
pub const LONG: &str = "film.bin";

/// Its length, octets: nine seconds at 20 Mbit/s.
pub const LONG_LEN: u64 = 22_000_000;

/// What stands there in the long file: no two parts of it are alike.
pub fn long_octet(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Writes the site of the long file into `dir`.
pub fn write_long(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::write(dir.join("index.html"), "<!doctype html>\n<title>Godwit demo: a film</title>\n")?;
    std::fs::write(dir.join(LONG), (0..LONG_LEN).map(long_octet).collect::<Vec<u8>>())?;
    Ok(())
}

/// The name of file `number`; 0 is the page itself.
pub fn path(number: usize) -> String {
    match number {
        0 => "index.html".into(),
        1..=9 => format!("pages/page-{number}.html"),
        10..=19 => format!("styles/theme-{number}.css"),
        _ => format!("images/photo-{number}.bin"),
    }
}

/// What the file holds in `version`: a line that says so, and then pseudo-random bytes, different
/// in each version and file.
pub fn body(version: u64, path: &str) -> Vec<u8> {
    let mut body = format!("<!-- godwit demo, version {version}, {path} -->\n").into_bytes();
    if path == "index.html" {
        body.extend(
            format!("<!doctype html>\n<title>Godwit demo</title>\n<h1>Version {version}</h1>\n").bytes(),
        );
    }
    // FNV-1a of the line seeds xorshift; sizes are 2 to 40 kB.
    let seed = body.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let name = path.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let len = 2_000 + (name % 38_000) as usize;
    let mut state = seed | 1;
    while body.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend(state.to_le_bytes());
    }
    body
}

/// The version that a file says it is of.
pub fn version_of(body: &[u8]) -> Option<u64> {
    let line = body.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.strip_prefix("<!-- godwit demo, version ")?.split(',').next()?.parse().ok()
}

/// Writes the site into `dir`.
pub fn write(dir: &Path, version: u64) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for number in 0..FILES {
        let (path, body) = (path(number), body(version, &path(number)));
        let file = dir.join(&path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        bytes += body.len() as u64;
        std::fs::write(&file, body).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_tells_its_version_and_differs() {
        for number in 0..FILES {
            let path = path(number);
            let (one, two) = (body(1, &path), body(2, &path));
            assert_eq!((version_of(&one), version_of(&two)), (Some(1), Some(2)));
            assert_ne!(one[100..], two[100..]);
            assert!((2_000..41_000).contains(&one.len()), "{}", one.len());
        }
        assert_eq!(version_of(b"something else"), None);
    }
}
