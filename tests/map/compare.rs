//! `procession compare`, as it is typed.

use crate::support::robust;
use crate::{MINUTE, code, text};
use std::fs::File;
use std::process::{Command, Output};

fn compare(words: &[&str]) -> Output {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_procession"));
    tool.args(["compare", "--time", "10ms", "--sizes", "10us,1ms"]).args(words).output().unwrap()
}

#[test]
fn a_table_and_a_picture_and_json() {
    robust(2 * MINUTE, || {
        let dir = tempfile::tempdir().unwrap();
        let plot = dir.path().join("x.svg");
        let output = compare(&["-j2", "--plot", plot.to_str().unwrap()]);
        let said = text(&output.stdout);
        assert_eq!(code(&output), 0, "{}", text(&output.stderr));
        assert!(
            said.contains("own work") && said.contains("in threads") && said.contains("in processes"),
            "{said}"
        );
        assert!(
            said.matches("less than 10 % on top").count() == 2 && said.matches('%').count() == 6,
            "{said}"
        );
        let svg = std::fs::read_to_string(&plot).unwrap();
        assert!(
            svg.starts_with("<svg") && svg.contains("processes (Pool)") && !svg.contains("a process each")
        );
        let output = compare(&["--json", "--plot", plot.to_str().unwrap(), "--", "true"]);
        let rows: Vec<serde_json::Value> =
            text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 2, "{}", text(&output.stderr));
        for row in &rows {
            let seconds = |key: &str| row[key].as_f64().unwrap();
            assert!(seconds("processes") > 0.9e-5 && seconds("threads") > 0.9e-5, "{row}");
            assert!((1e-5..10.0).contains(&seconds("start_by_map")), "{row}");
            assert!((1e-5..10.0).contains(&seconds("start_by_threads")), "{row}");
        }
        assert!(std::fs::read_to_string(&plot).unwrap().contains("a process each (true)"));
    });
}

#[test]
fn what_cannot_be_measured_is_told() {
    robust(MINUTE, || {
        for (words, wanted, said) in [
            (&["--", "false"][..], 123, "exit 1"),
            (&["--", "no-such-program"], 127, "not found"),
            (&["--", "/etc/passwd"], 126, "not executable"),
            (&["--plot", "/nowhere/x.svg"], 125, "/nowhere/x.svg"),
            (&["--sizes", "1h"], 125, "60s is the most"),
            (&["-j", "0"], 125, "0"),
        ] {
            let output = compare(words);
            assert_eq!(code(&output), wanted, "{words:?} {}", text(&output.stderr));
            assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
            assert!(output.stdout.is_empty());
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut tool = Command::new(env!("CARGO_BIN_EXE_procession"));
        tool.args(["compare", "--time", "1ms", "--sizes", "10us"]).stdout(full);
        assert_eq!(code(&tool.output().unwrap()), 125);
    });
}
