//! Long-lived programs: their order, their deaths, their protocol.

use crate::support::robust;
use crate::{MINUTE, code, fed, map, numbers, text};

#[test]
fn a_hundred_thousand_lines_come_back_in_order() {
    robust(MINUTE, || {
        for words in [
            &["-j2", "--mode", "lines", "--", "cat"][..],
            &["-j3", "--prefetch", "0", "--mode", "lines", "cat"],
        ] {
            let count = if words[1] == "--mode" { 100_000 } else { 1000 };
            let output = fed(map(words), numbers(count));
            assert!(text(&output.stdout) == numbers(count), "{words:?} {}", text(&output.stderr));
            assert_eq!(code(&output), 0);
        }
    });
}

#[test]
fn a_worker_that_dies_costs_the_line_it_was_at() {
    robust(MINUTE, || {
        let script = "while read n; do [ $n = 7 ] && kill -9 $$; echo $n; done";
        let output = fed(map(&["-j2", "--mode", "lines", "--", "sh", "-c", script]), numbers(20));
        assert_eq!(code(&output), 123);
        let wanted: String = numbers(20).lines().filter(|n| *n != "7").map(|n| format!("{n}\n")).collect();
        assert_eq!(text(&output.stdout), wanted);
        assert!(text(&output.stderr).contains("19 ok, 1 failed"), "{}", text(&output.stderr));
    });
}

#[test]
fn a_worker_that_hangs_or_speaks_unasked_is_replaced() {
    robust(MINUTE, || {
        let script = "while read n; do [ $n = 3 ] && sleep 1000; echo $n; done";
        let output =
            fed(map(&["-j1", "-t", "300ms", "--mode", "lines", "--", "sh", "-c", script]), numbers(5));
        assert_eq!((code(&output), text(&output.stdout).as_str()), (123, "1\n2\n4\n5\n"));
        let script = "while read n; do echo $n; echo $n; done";
        let output =
            fed(map(&["-j1", "--prefetch", "0", "--mode", "lines", "--", "sh", "-c", script]), numbers(2));
        assert!(code(&output) == 123 || code(&output) == 0);
    });
}

#[test]
fn json_workers_are_asked_by_id() {
    robust(MINUTE, || {
        let script = r#"while IFS= read -r line; do
            id=${line#*:}; id=${id%%,*}
            echo '{"beat":true}'
            [ $id = 2 ] && echo "{\"id\":$id,\"error\":\"no\"}" || echo "{\"id\":$id,\"ok\":$line}"
        done"#;
        let output = fed(map(&["-j1", "--mode", "json", "--", "sh", "-c", script]), "a\nb\n{\"x\":1}\n");
        assert_eq!(
            text(&output.stdout),
            "{\"id\":1,\"task\":\"a\",\"attempt\":1}\n{\"id\":3,\"task\":{\"x\":1},\"attempt\":1}\n"
        );
        assert_eq!((code(&output), text(&output.stderr).starts_with("no\n")), (123, true));
        let output = fed(map(&["-j1", "--mode", "json", "--", "cat"]), "a\n");
        assert_eq!(code(&output), 123, "an echo is no answer");
    });
}
