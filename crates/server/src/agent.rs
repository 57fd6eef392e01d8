//! The program inside each sandbox, carried inside this one.

/// The agent as a static binary, built by `build.rs`.
pub static AGENT: &[u8] = include_bytes!(env!("SANDBOXAI_AGENT_PATH"));

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of `length` bytes at `offset`, least byte first.
    fn number(offset: usize, length: usize) -> usize {
        AGENT[offset..offset + length]
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    #[test]
    fn the_agent_is_a_static_program() {
        // Where the header of a 64-bit ELF file tells of its program headers.
        let (place, entry_size, entry_count) = (0x20, 0x36, 0x38);
        /// Names the loader of a dynamic program.
        const INTERPRETER: usize = 3;
        assert_eq!(&AGENT[..5], b"\x7fELF\x02");
        let (start, size) = (number(place, 8), number(entry_size, 2));
        for header in 0..number(entry_count, 2) {
            let kind = number(start + header * size, 4);
            // It must run in file systems that hold no loader.
            assert_ne!(kind, INTERPRETER, "the agent needs a loader");
        }
    }
}
