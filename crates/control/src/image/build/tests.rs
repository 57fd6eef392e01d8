use super::*;

#[test]
fn the_space_of_builds_has_a_valid_name() {
    assert_eq!(space().as_str(), "builds");
}

#[test]
fn only_stages_that_lead_to_the_last_one_are_built() {
    let needed = |text: &str| {
        let file = Dockerfile::parse(text).unwrap();
        super::needed(&file).into_iter().collect::<Vec<_>>()
    };
    assert_eq!(needed("FROM a\nFROM b\nFROM c"), [2]);
    assert_eq!(
        needed("FROM a AS x\nFROM b AS y\nFROM X\nCOPY --from=y /a /b"),
        [0, 1, 2]
    );
    assert_eq!(
        needed("FROM a\nFROM b\nFROM c\nCOPY --from=0 /a /b"),
        [0, 2]
    );
    assert_eq!(needed("ARG B=x\nFROM a AS x\nFROM b\nFROM $B"), [0, 1, 2]);
}
