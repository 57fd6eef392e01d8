//! How the program ends.

/// Exit codes. `exec` and `run` pass the code of their command; everything that
/// goes wrong on our side is then [`ExitCode::Own`], as no command of note uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// All went well.
    Ok,
    /// It did not work; the message says why.
    Failure,
    /// The command line or the configuration is wrong.
    Usage,
    /// There is no such sandbox, image or file.
    NotFound,
    /// There is no server at the address.
    Unreachable,
    /// Whoever read standard output has gone, as `head` does: as if by SIGPIPE.
    ReaderGone,
    /// `exec` and `run`: our own failure, not the command's.
    Own,
    /// `exec` and `run`: the code of the command.
    Command(u8),
}

impl ExitCode {
    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Unreachable => 4,
            Self::ReaderGone => 141,
            Self::Own => 125,
            Self::Command(code) => code,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.code().into()
    }
}

/// The table of `--help`.
pub const HELP: &str = "\
Exit codes:
  0    all went well
  1    it did not work; the message says why
  2    the command line or the configuration is wrong
  3    there is no such sandbox, image or file
  4    there is no server at the address
  125  exec, run: our own failure (no server, no such sandbox, ...)
  N    exec, run: the code of the command; 128 + N when signal N ended it, 124 when its time was over";
