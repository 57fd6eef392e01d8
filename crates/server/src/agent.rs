//! The program inside each sandbox, carried inside this one.

/// The agent as a static binary, built by `build.rs`.
pub static AGENT: &[u8] = include_bytes!(env!("SANDBOXAI_AGENT_PATH"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_a_static_program() {
        assert_eq!(&AGENT[..4], b"\x7fELF");
        // A dynamic program names its loader; the agent must run where there is none.
        assert!(
            !AGENT.windows(9).any(|window| window == b"ld-linux-"),
            "the agent needs a dynamic loader"
        );
    }
}
