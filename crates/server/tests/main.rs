//! The whole program, end to end: needs root, and `busybox-static` for an image.

mod images;
mod program;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use program::{IMAGE, Server, command, eventually, sandbox_folder, state_dir, text, told, unique};
use serde_json::Value;

#[test]
fn a_sandbox_lives_from_create_to_rm() {
    let server = Server::start("life", &["--delete-on-shutdown"]);
    assert_eq!(
        server.ok(&["create", "box", "-e", "GREETING=hello"]),
        "box\n"
    );
    let (_, stderr, code) = server.run(&["create", "box"]);
    assert!(
        code == 1 && stderr.contains("exists already"),
        "{code} {stderr}"
    );

    let script = "echo $GREETING; echo problem >&2; exit 7";
    let (stdout, stderr, code) = server.run(&["exec", "box", "--", "sh", "-c", script]);
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), code),
        ("hello\n", "problem\n", 7)
    );
    assert_eq!(
        server
            .run(&[
                "exec",
                "box",
                "-e",
                "A=b",
                "--cwd",
                "/tmp",
                "--",
                "sh",
                "-c",
                "echo $A; pwd"
            ])
            .0,
        "b\n/tmp\n"
    );
    assert_eq!(
        server
            .run(&["exec", "box", "--timeout", "200ms", "--", "sleep", "60"])
            .2,
        124
    );
    assert_eq!(server.run(&["exec", "nobody", "true"]).2, 125);
    assert_eq!(
        server
            .run(&["exec", "box", "--", "sh", "-c", "kill -9 $$"])
            .2,
        137
    );
    let json: Value =
        serde_json::from_str(&server.ok(&["exec", "--json", "box", "echo", "x"])).unwrap();
    assert_eq!(
        (&json["stdout"], &json["exit_code"]),
        (&"x\n".into(), &0.into())
    );

    assert!(server.ok(&["ls"]).contains("running"));
    assert!(server.ok(&["logs", "box"]).contains("created"));
    let folder = sandbox_folder(&server.uid("box"));
    assert!(folder.exists(), "{}", folder.display());
    assert_eq!(server.ok(&["rm", "box"]), "box\n");
    assert_eq!(
        server.ok(&["rm", "box"]),
        "box\n",
        "deleting again is no failure"
    );
    assert_eq!(server.run(&["rm", "never-there"]).2, 3);
    assert_eq!(server.run(&["exec", "box", "true"]).2, 125);
    eventually("its folder is removed", || !folder.exists());
    server.stop();
}

#[test]
fn input_is_forwarded() {
    let server = Server::start("input", &["--delete-on-shutdown"]);
    server.ok(&["create", "box"]);
    let input: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let output = server.with_input(&["exec", "-i", "box", "cat"], &input);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        output.stdout == input,
        "{} bytes came back",
        output.stdout.len()
    );
    let output = server.with_input(
        &[
            "exec",
            "-i",
            "box",
            "--",
            "sh",
            "-c",
            "cat >/dev/null; exit 5",
        ],
        b"x",
    );
    assert_eq!(output.status.code(), Some(5));
    server.stop();
}

#[test]
fn files_and_folders_are_copied_exactly() {
    let server = Server::start("files", &["--delete-on-shutdown"]);
    server.ok(&["create", "box"]);
    let here = tempfile::tempdir().unwrap();
    let path = |name: &str| here.path().join(name).to_str().unwrap().to_owned();
    let content: Vec<u8> = (0..5_000_000u32).flat_map(|n| n.to_le_bytes()).collect();
    fs::create_dir_all(path("tree/a/b")).unwrap();
    fs::write(path("tree/a/b/large"), &content).unwrap();
    fs::write(path("tree/empty"), "").unwrap();
    fs::write(path("tree/with space é"), "text\n").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", path("tree/link")).unwrap();

    let (_, stderr, code) = server.run(&["cp", &path("tree"), "box:/root/tree"]);
    assert!(code == 0 && stderr.contains("1 links"), "{stderr}");
    assert_eq!(
        server.ok(&["exec", "box", "cat", "/root/tree/with space é"]),
        "text\n"
    );
    server.ok(&["cp", "box:/root/tree", &path("back")]);
    assert!(fs::read(path("back/a/b/large")).unwrap() == content);
    assert_eq!(fs::read(path("back/empty")).unwrap(), b"");
    assert!(!here.path().join("back/link").exists());
    // Into a folder that exists, both ways.
    server.ok(&["cp", &path("tree/empty"), "box:/root"]);
    server.ok(&["cp", "box:/root/empty", &path("back/a")]);
    assert!(here.path().join("back/a/empty").exists());
    assert_eq!(server.run(&["cp", "box:/nothing", &path("x")]).2, 3);
    assert_eq!(server.run(&["cp", &path("nothing"), "box:/x"]).2, 3);
    assert_eq!(server.run(&["cp", "a", "b"]).2, 2);
    server.stop();
}

#[test]
fn sandboxes_outlive_a_killed_server() {
    let server = Server::start("crash", &[]);
    server.ok(&["create", "box"]);
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
    let process = server.ok(&["exec", "box", "--", "sh", "-c", script]);
    let process = process.trim().to_owned();
    server.kill();

    let server = Server::start("crash", &[]);
    server.ok(&["exec", "box", "--", "kill", "-0", &process]);
    assert!(server.ok(&["ls"]).contains("running"));
    server.stop();
    // Also a server that was stopped in good order leaves them running.
    let server = Server::start("crash", &["--delete-on-shutdown"]);
    server.ok(&["exec", "box", "--", "kill", "-0", &process]);
    let folder = sandbox_folder(&server.uid("box"));
    server.ok(&["rm", "box"]);
    eventually("its folder is removed", || !folder.exists());
    server.stop();
}

#[test]
fn sandboxes_end_with_an_ephemeral_server() {
    for how in ["signal", "kill", "client"] {
        let scope = format!("ephemeral-{how}");
        let mut server = Server::start(&scope, &["--delete-on-shutdown", "--exit-with-client"]);
        server.ok(&["create", "box"]);
        let folder = sandbox_folder(&server.uid("box"));
        match how {
            "signal" => server.stop(),
            "kill" => server.kill(),
            _ => {
                drop(server.stdout.take());
                assert!(server.wait(), "{}", server.log());
                server.check_log();
            }
        }
        eventually(how, || !folder.exists());
    }
    let left = state_dir().join("server").join(unique("ephemeral-signal"));
    assert!(!left.exists(), "{} is left", left.display());
}

#[test]
fn a_second_server_of_a_scope_is_refused() {
    let server = Server::start("twice", &["--delete-on-shutdown"]);
    let second = command(
        state_dir(),
        &["serve", "--port", "0", "--scope", &unique("twice")],
    );
    let (stdout, stderr, code) = told({ second }.output().unwrap());
    assert_eq!((stdout.as_str(), code), ("", 1));
    assert!(
        stderr.contains("another server has the scope \"twice-"),
        "{stderr}"
    );
    let port = server.port.to_string();
    let taken = command(
        state_dir(),
        &[
            "serve",
            "--port",
            &port,
            "--scope",
            "other",
            "--delete-on-shutdown",
        ],
    );
    let (_, stderr, code) = told({ taken }.output().unwrap());
    assert!(
        code == 1 && stderr.contains("another program has the port"),
        "{stderr}"
    );
    server.stop();
}

#[test]
fn run_brings_its_own_server_when_there_is_none() {
    let run = |arguments: &[&str]| {
        let mut command = command(state_dir(), &["run"]);
        // A port that nobody listens on: the usual server of this machine is not meant.
        command.args(arguments).env("SANDBOXAI_SERVER_PORT", "1");
        told(command.output().unwrap())
    };
    let (stdout, stderr, code) = run(&["-e", "A=b", "--", "sh", "-c", "echo $A; exit 9"]);
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("b\n", "", 9));
    let (_, stderr, code) = run(&["--image", "no/such", "true"]);
    assert!(code == 125 && stderr.contains("no/such"), "{code} {stderr}");
}

#[test]
fn only_requests_that_are_meant_for_it_are_served() {
    let server = Server::start(
        "doors",
        &[
            "--delete-on-shutdown",
            "--set",
            "server.api_keys=0123456789abcdef",
        ],
    );
    let status = |path: &str, headers: &str| {
        let answer = server.raw(&format!(
            "GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n"
        ));
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let list = "/v1/spaces/default/sandboxes";
    assert_eq!(status("/v1/healthz", "Host: localhost\r\n"), "200");
    assert_eq!(status("/v1/healthz", "Host: evil.example\r\n"), "421");
    assert_eq!(
        status(
            "/v1/healthz",
            "Host: localhost\r\nOrigin: http://evil.example\r\n"
        ),
        "403"
    );
    assert_eq!(status(list, "Host: localhost\r\n"), "401");
    assert_eq!(
        status(list, "Host: localhost\r\nX-API-Key: wrong\r\n"),
        "401"
    );
    assert_eq!(
        status(list, "Host: localhost\r\nX-API-Key: 0123456789abcdef\r\n"),
        "200"
    );
    assert_eq!(
        status(
            list,
            "Host: localhost\r\nAuthorization: Bearer 0123456789abcdef\r\n"
        ),
        "200"
    );
    assert_eq!(server.run(&["ls"]).2, 1);
    let mut with_key = server.client(&["ls", "--json"]);
    with_key.env("SANDBOXAI_API_KEY", "0123456789abcdef");
    assert_eq!(told(with_key.output().unwrap()).2, 0);
    server.stop();
}

#[test]
fn a_port_inside_is_previewed() {
    let server = Server::start("preview", &["--delete-on-shutdown"]);
    server.ok(&["create", "box"]);
    let script = "echo hello >/tmp/page; exec /bin/busybox httpd -p 127.0.0.1:8080 -h /tmp";
    server.ok(&["exec", "box", "--", "sh", "-c", script]);
    let id = server.uid("box");
    let get = |host: &str, path: &str, more: &str| {
        server.raw(&format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n"
        ))
    };
    // No keys are configured: any opens a private port.
    let key = "Authorization: Bearer any\r\n";
    let by_path = format!("/preview/{id}/8080/page");
    eventually("something listens", || {
        get("box.example.com", &by_path, key).ends_with("hello\n")
    });
    let host = format!("8080-{id}.box.example.com");
    assert!(get(&host, "/page", key).ends_with("hello\n"));
    for (host, path, more, status) in [
        (host.as_str(), "/page", "", "401"),
        (&host, "/nothing", key, "404"),
        (&format!("08080-{id}.localhost"), "/page", key, "400"),
        (&format!("8081-{id}.localhost"), "/page", key, "502"),
        (&format!("2280-{id}.localhost"), "/work-dir", "", "401"),
        (&format!("2280-{id}.localhost"), "/work-dir", key, "200"),
        (
            &format!("2280-{id}.box.example.com"),
            "/work-dir",
            "",
            "421",
        ),
    ] {
        let answer = get(host, path, more);
        assert_eq!(
            answer.split(' ').nth(1),
            Some(status),
            "{host}{path} {answer}"
        );
    }
    server.ok(&["rm", "box"]);
    assert_eq!(get(&host, "/page", key).split(' ').nth(1), Some("404"));
    server.stop();
}

#[test]
fn images_are_listed_and_removed() {
    let state = state_dir();
    let run = |arguments: &[&str]| told(command(state, arguments).output().unwrap());
    let (stdout, stderr, code) = run(&["image", "ls", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let images: Value = serde_json::from_str(&stdout).unwrap();
    let names: Vec<_> = images
        .as_array()
        .unwrap()
        .iter()
        .map(|image| &image["name"])
        .collect();
    assert!(
        names
            .iter()
            .any(|name| name.as_str().unwrap_or_default().starts_with(IMAGE)),
        "{names:?}"
    );
    assert_eq!(run(&["image", "rm", "no/such"]).2, 3);
    assert_eq!(run(&["image", "import", "/nonexistent.tar"]).2, 3);
}

#[test]
fn nothing_answers_without_a_server() {
    let run = |arguments: &[&str]| {
        let mut command = command(state_dir(), arguments);
        command.env("SANDBOXAI_URL", "http://127.0.0.1:1");
        told(command.output().unwrap())
    };
    for arguments in [
        &["ls"][..],
        &["create"],
        &["cell", "box", "1"],
        &["rm", "box"],
        &["logs", "box"],
    ] {
        let (_, stderr, code) = run(arguments);
        assert!(
            code == 4 && stderr.contains("hint: start one"),
            "{arguments:?} {code} {stderr}"
        );
    }
    for arguments in [&["exec", "box", "true"][..], &["run", "true"]] {
        assert_eq!(run(arguments).2, 125, "{arguments:?}");
    }
}

#[test]
fn the_original_clients_way_of_starting_it_works() {
    use std::os::unix::process::CommandExt as _;
    let mut child = command(state_dir(), &[]);
    child
        .arg0("/somewhere/sandboxaid")
        .env("SANDBOXAID_PORT", "0")
        .env("SANDBOXAID_SCOPE", unique("original"))
        .env("SANDBOXAID_DELETE_ON_SHUTDOWN", "true")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with(r#"{"host":"127.0.0.1","port":"#), "{line}");
    // That client never says that it is gone.
    drop(stdout);
    let (_, stderr, code) = told(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn ctrl_c_ends_the_command_and_leaves_no_sandbox() {
    let server = Server::start("ctrl-c", &["--delete-on-shutdown"]);
    let mut run = server.client(&["run", "--", "sh", "-c", "echo begun; sleep 1000"]);
    let mut run = run.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n", "output comes as it is written");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    assert_eq!(server.ok(&["ls", "--json"]), "[]\n");
    server.stop();
}

#[test]
fn running_requests_end_before_the_server_does() {
    let server = Server::start("grace", &["--delete-on-shutdown"]);
    server.ok(&["create", "box"]);
    let script = "echo begun; sleep 1; echo done";
    let mut exec = server.client(&["exec", "box", "--", "sh", "-c", script]);
    let mut exec = exec.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(exec.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    server.signal(rustix::process::Signal::TERM);
    line.clear();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "done\n");
    assert_eq!(exec.wait().unwrap().code(), Some(0));
    server.stop();
}

#[test]
fn the_default_recipe_can_be_copied() {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("mine");
    let written = command(state_dir(), &["image", "recipe"])
        .arg(&copy)
        .output();
    assert_eq!(told(written.unwrap()).2, 0);
    assert!(copy.join("image.toml").exists());
}
