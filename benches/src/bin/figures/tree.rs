//! Directories to publish, made from a seed.

use anyhow::Result;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

/// Writes `files` files of together about `bytes` incompressible bytes into `dir`, in
/// subdirectories of at most `per_directory`; with one directory only when it is zero.
pub(crate) fn write(dir: &Path, files: usize, bytes: u64, per_directory: usize, seed: u64) -> Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mean = (bytes / files.max(1) as u64).max(1);
    for index in 0..files {
        let parent = match per_directory {
            0 => dir.to_owned(),
            count => dir.join(format!("d{:04}", index / count)),
        };
        if per_directory == 0 || index % per_directory == 0 {
            std::fs::create_dir_all(&parent)?;
        }
        let len = rng.random_range(mean / 2..=mean + mean / 2) as usize;
        let mut content = vec![0; len];
        rng.fill(&mut content[..]);
        std::fs::write(parent.join(format!("f{index:05}.bin")), content)?;
    }
    Ok(())
}
