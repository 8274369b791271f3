//! The example programs do what they say.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where cargo has built an example for the tests.
fn example(name: &str) -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_spindex"));
    program.with_file_name("examples").join(name)
}

fn output_of(command: &mut Command) -> String {
    let output = command
        .output()
        .expect("the example is built with the tests");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_tweak_is_that_of_the_test_vector() {
    assert_eq!(
        output_of(&mut Command::new(example("tweak"))),
        "024ac253c216532e961988e2a8ce266a447c894c781e52ef6cee902361db960004\n"
    );
}

#[test]
fn the_scan_finds_the_output_of_the_test_vector() {
    assert_eq!(
        output_of(&mut Command::new(example("scan"))),
        "tweak 42: 1000 sat, k = 0, add f438b40179a3c4262de12986c0e6cce0634007cdc79c1dcd3e20b9ebc2e7eef6 to the spend key\n"
    );
}

#[test]
fn the_light_client_finds_payments_at_the_server() {
    let mut server = Command::new(example("serve"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example is built with the tests");
    let lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let url = lines
        .map(|line| line.expect("text"))
        .find_map(|line| line.strip_prefix("serving on ").map(str::to_owned))
        .expect("it serves");
    let found = output_of(Command::new(example("light_client")).arg(url));
    let last = found.lines().last().expect("a line");
    let (outputs, rest) = last.split_once(" outputs, ").expect("a sum");
    assert!(outputs.parse::<u32>().expect("a number") > 5, "{last}");
    assert!(rest.ends_with(" sat"), "{last}");
    // The end of its input ends it.
    drop(server.stdin.take());
    assert!(server.wait().expect("it ends").success());
}
