//! The spawner as a program of its own, for tests.

fn main() -> std::process::ExitCode {
    runtime_embedded::spawner_main()
}
