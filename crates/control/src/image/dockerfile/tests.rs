use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Dockerfile {
    Dockerfile::parse(text).unwrap()
}

/// The instructions of the one stage that begins with `FROM x`.
fn steps(text: &str) -> Vec<Instruction> {
    let mut file = parse(&format!("FROM x\n{text}"));
    let steps = file.stages.pop().unwrap().steps;
    steps.into_iter().map(|step| step.instruction).collect()
}

fn step(text: &str) -> Instruction {
    let mut steps = steps(text);
    assert_eq!(steps.len(), 1, "{text}");
    steps.pop().unwrap()
}

fn problem(text: &str) -> String {
    Dockerfile::parse(text).unwrap_err().to_string()
}

fn shell(line: &str) -> Instruction {
    Instruction::Run(Program::Shell(line.to_owned()))
}

fn expanded(word: &str, variables: &[(&str, &str)]) -> Result<String, String> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    expand(word, '\\', &|name| {
        variables.get(name).map(|value| (*value).to_owned())
    })
}

#[test]
fn stages_have_names_and_arguments_before_them() {
    let file = parse(
        "# syntax=docker/dockerfile:1\nARG V=12 W\nfrom --platform=linux/amd64 debian:${V} as Base\nRUN a\nFROM base\nRUN b\n",
    );
    assert_eq!(
        file.args,
        [
            ("V".to_owned(), Some("12".to_owned())),
            ("W".to_owned(), None)
        ]
    );
    assert_eq!(file.stages.len(), 2);
    assert_eq!(file.stages[0].base, "debian:${V}");
    assert_eq!(file.stages[0].name.as_deref(), Some("base"));
    assert_eq!((file.stages[1].line, file.stages[1].steps[0].line), (5, 6));
}

#[test]
fn lines_go_on_and_comments_are_left_out() {
    let text = "# a comment\n\nRUN one \\\n  # in between\n\n  two \\  \nthree\n  # and after\nRUN four # not a comment";
    assert_eq!(
        steps(text),
        [shell("one   two three"), shell("four # not a comment")]
    );
    let windows = "# escape=`\nFROM x\nRUN a `\n b\nRUN dir C:\\\n";
    let file = parse(windows);
    assert_eq!(file.escape, '`');
    let instructions: Vec<_> = file.stages[0]
        .steps
        .iter()
        .map(|step| step.instruction.clone())
        .collect();
    assert_eq!(instructions, [shell("a  b"), shell("dir C:\\")]);
    assert_eq!(parse("FROM x\nRUN a \\").stages[0].steps.len(), 1);
}

#[test]
fn programs_come_in_two_forms() {
    let exec = |words: &[&str]| Program::Exec(words.iter().map(|word| (*word).into()).collect());
    assert_eq!(
        step(r#"RUN ["a b", "c"]"#),
        Instruction::Run(exec(&["a b", "c"]))
    );
    assert_eq!(step("RUN [ -f x ] && y"), shell("[ -f x ] && y"));
    assert_eq!(
        step(r#"ENTRYPOINT ["/run", "-x"]"#),
        Instruction::Entrypoint(exec(&["/run", "-x"]))
    );
    assert_eq!(
        step("CMD exec me"),
        Instruction::Cmd(Program::Shell("exec me".to_owned()))
    );
    assert_eq!(step("RUN --mount=type=cache,target=/x a"), shell("a"));
    assert!(problem("FROM x\nRUN --mount=type=secret,id=a b").contains("line 2"));
}

#[test]
fn here_documents_belong_to_their_instruction() {
    assert_eq!(
        step("RUN <<EOF\napt update # no comment\n  x\nEOF\n"),
        shell("apt update # no comment\n  x\n")
    );
    assert_eq!(
        steps("RUN python3 <<-'END' && b\n\timport x\n\tEND\nRUN c"),
        [shell("python3 <<-'END' && b\nimport x\nEND\n"), shell("c")]
    );
    let Instruction::Run(Program::Exec(words)) = step("RUN <<X\n#!/usr/bin/python3\n1\nX") else {
        panic!("a script of its own");
    };
    assert_eq!(words.last().unwrap(), "#!/usr/bin/python3\n1\n");
    let Instruction::Copy(copy) = step("COPY <<a.txt <<\"b\" c /to/\n$X\na.txt\n$Y\nb") else {
        panic!("a copy");
    };
    let inline = |name: &str, text: &str, expands| Source::Inline {
        name: name.to_owned(),
        text: text.to_owned(),
        expands,
    };
    assert_eq!(
        copy.sources,
        [
            inline("a.txt", "$X\n", true),
            inline("b", "$Y\n", false),
            Source::Path("c".to_owned())
        ]
    );
    assert_eq!(shell("cat <<<x"), step("RUN cat <<<x"));
    assert!(problem("FROM x\nRUN <<EOF\na").contains("line 2: the text that ends with `EOF`"));
}

#[test]
fn copies_have_flags_sources_and_a_target() {
    let Instruction::Copy(copy) = step("COPY --from=base --chown=1:2 --chmod=755 a b /c/") else {
        panic!("a copy");
    };
    assert_eq!(copy.from.as_deref(), Some("base"));
    assert_eq!(copy.owner.as_deref(), Some("1:2"));
    assert_eq!((copy.mode, copy.sources.len()), (Some(0o755), 2));
    assert_eq!(copy.target, "/c/");
    let Instruction::Copy(add) = step(r#"ADD ["a b", "/c d"]"#) else {
        panic!("a copy");
    };
    assert!(add.is_add);
    assert_eq!(add.sources, [Source::Path("a b".to_owned())]);
    for bad in [
        "COPY a",
        "COPY --what a b",
        "COPY --chmod=u+x a b",
        "ADD --from=x a b",
    ] {
        assert!(
            problem(&format!("FROM x\n\n{bad}")).contains("line 3"),
            "{bad}"
        );
    }
}

#[test]
fn variables_are_written_in_two_ways() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        step(r#"ENV A=1 B="two words" C=x\ y"#),
        Instruction::Env(vec![
            pair("A", "1"),
            pair("B", "\"two words\""),
            pair("C", "x\\ y")
        ])
    );
    assert_eq!(
        step("ENV A all the rest"),
        Instruction::Env(vec![pair("A", "all the rest")])
    );
    assert_eq!(
        step("LABEL a.b=c"),
        Instruction::Label(vec![pair("a.b", "c")])
    );
    assert!(problem("FROM x\nENV A").contains("line 2"));
    assert!(problem("FROM x\nENV A=1 B").contains("NAME=value"));
}

#[test]
fn words_are_expanded_as_a_shell_would() {
    let variables = [("A", "one"), ("E", "")];
    for (word, wanted) in [
        ("x$A-y", "xone-y"),
        ("${A}b$B.", "oneb."),
        ("${B:-d $A}", "d one"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${A:+other}", "other"),
        ("${B:+other}", ""),
        ("'$A'", "$A"),
        ("\"$A \\\" \\x\"", "one \" \\x"),
        ("\\$A", "$A"),
        ("a\\ b", "a b"),
        ("cost $", "cost $"),
        ("${B:-${A}}", "one"),
    ] {
        assert_eq!(expanded(word, &variables).as_deref(), Ok(wanted), "{word}");
    }
    for bad in ["${A", "${}", "'x", "\"x", "${A!x}", "${B:?set me}"] {
        assert!(expanded(bad, &variables).is_err(), "{bad}");
    }
    assert!(
        expanded("${B:?set me}", &[])
            .unwrap_err()
            .contains("set me")
    );
}

#[test]
fn what_is_not_understood_is_told_with_its_line() {
    for (text, wanted) in [
        ("", "no FROM"),
        ("# only a comment", "no FROM"),
        ("RUN a\nFROM x", "line 1: RUN comes before"),
        ("FROM x\n\nRUNN a", "line 3: there is no instruction RUNN"),
        ("FROM x\nONBUILD RUN a", "line 2"),
        ("FROM x y", "line 1"),
        ("FROM x\nRUN", "line 2: RUN says nothing"),
        ("FROM x\nSHELL sh", "line 2: SHELL"),
        ("FROM x\nARG a-b=1", "line 2"),
    ] {
        assert!(
            problem(text).contains(wanted),
            "{text:?}: {}",
            problem(text)
        );
    }
    assert_eq!(
        steps("EXPOSE 80\nVOLUME /x\nSTOPSIGNAL 9\nHEALTHCHECK NONE").len(),
        4
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(FROM x\n)?(\\PC|[\n\\\\`#$<'\"{}:=\\[\\]-]){0,200}") {
        let _ = Dockerfile::parse(&text);
        let _ = expand(&text, '\\', &|_| None);
        let _ = expand_text(&text, '\\', &|_| None);
    }

    #[test]
    fn plain_words_are_split_and_expanded_to_themselves(words in prop::collection::vec("[a-z0-9/._-]{1,10}", 0..10), blanks in "[ \t]{1,3}") {
        let text = words.join(&blanks);
        let split = words::split(&text, '\\');
        prop_assert_eq!(&split, &words);
        for word in &split {
            let same = expand(word, '\\', &|_| None);
            prop_assert_eq!(same.as_ref(), Ok(word));
        }
    }

    #[test]
    fn quoted_words_stay_whole(word in "[a-z $\"\\\\]{0,20}") {
        let quoted = format!("'{word}'");
        prop_assert_eq!(words::split(&quoted, '\\'), vec![quoted.clone()]);
        prop_assert_eq!(expand(&quoted, '\\', &|_| None), Ok(word));
    }

    #[test]
    fn a_line_may_be_broken_anywhere_between_words(words in prop::collection::vec("[a-z0-9]{1,8}", 1..8), breaks in prop::collection::vec(any::<bool>(), 8)) {
        let mut broken = String::from("FROM x\nRUN ");
        for (word, breaks) in words.iter().zip(&breaks) {
            broken.push_str(word);
            broken.push_str(if *breaks { " \\\n# comment\n" } else { " " });
        }
        broken.push_str("end");
        let file = Dockerfile::parse(&broken).unwrap();
        let Instruction::Run(Program::Shell(line)) = &file.stages[0].steps[0].instruction else {
            panic!("a run");
        };
        let mut wanted = words.clone();
        wanted.push("end".to_owned());
        prop_assert_eq!(line.split_whitespace().collect::<Vec<_>>(), wanted);
    }
}
