use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    let words = std::iter::once("sandboxai").chain(line.split_whitespace());
    Arguments::try_parse_from(words).map(|arguments| arguments.command)
}

#[test]
fn the_definition_holds_together() {
    Arguments::command().debug_assert();
}

#[test]
fn a_command_keeps_its_own_flags() {
    for line in [
        "exec box ls -la --json",
        "exec box -e A=1 --timeout 5s -- ls -la",
        "run --image a -e K=V --network none -- sh -c x",
        "run --memory 1GiB --cpu 0.5 echo -n",
    ] {
        assert!(parse(line).is_ok(), "{line}");
    }
    let Ok(Command::Exec(exec)) = parse("exec box ls -la --json") else {
        panic!("not an exec");
    };
    assert!(format!("{exec:?}").contains(r#"["ls", "-la", "--json"]"#));
}

#[test]
fn what_is_wrong_is_noticed_before_anything_is_sent() {
    for line in [
        "exec ../x ls",
        "exec box",
        "run",
        "run --network lan -- true",
        "run --memory 2 -- true",
        "create a --cpu 0",
        "create a -e =x",
        "rm",
        "cp a",
        "logs",
        "nonsense",
        "serve --set server.port",
        "rollout",
        "rollout set",
        "rollout set 101",
        "rollout set -1",
        "rollout set half",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let help = Arguments::command().render_long_help().to_string();
    for code in [
        ExitCode::Ok,
        ExitCode::Failure,
        ExitCode::Usage,
        ExitCode::NotFound,
        ExitCode::Unreachable,
        ExitCode::Own,
    ] {
        assert!(
            help.contains(&format!("\n  {:<5}", code.code())),
            "{code:?}"
        );
    }
}
