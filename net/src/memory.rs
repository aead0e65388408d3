//! Memory that is not needed any more.

/// Gives memory that was freed back to the system, after work that needed much of it for a moment: the
/// allocator keeps it otherwise. Takes milliseconds. Does nothing where the C library is not glibc.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number of bytes to leave, may be called at any time and from any
    // thread, and frees nothing that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_in_use_stays() {
        let kept: Vec<u64> = (0..100_000).collect();
        drop(vec![1u8; 1 << 20]);
        super::give_back();
        assert_eq!(kept.iter().sum::<u64>(), 4_999_950_000);
    }
}
