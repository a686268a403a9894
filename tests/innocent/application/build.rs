//! Puts what a static C++ library brings, a constructor, at the very end of the link.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/late.c");
    println!("cargo::rerun-if-env-changed=CC");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("late.o");
    // The compiler that links Rust programs.
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status = Command::new(compiler).args(["-c", "-fPIC", "src/late.c", "-o"]).arg(&out).status();
    assert!(status.expect("a C compiler").success(), "src/late.c is compiled");
    println!("cargo::rustc-link-arg-bins={}", out.display());
}
