//! A terminal that a program believes to be one.

use crate::MINUTE;
use crate::support::{fresh, on_terminal, poll_or};
use nix::pty::{Winsize, openpty};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use vt100::Parser;

const ROWS: u16 = 24;
const COLUMNS: u16 = 100;

pub(crate) struct Terminal {
    master: File,
    pub(crate) child: Child,
    parser: Arc<Mutex<Parser>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    /// The tool, alone on its terminal.
    pub(crate) fn tool(words: &[&str], place: &Path) -> Self {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_procession"));
        tool.args(words);
        Self::start(tool, place)
    }

    /// A shell with job control; `$TOOL` is the tool.
    pub(crate) fn shell(place: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.arg("-i").env("PS1", "prompt> ").env("ENV", "/dev/null");
        shell.env("TOOL", env!("CARGO_BIN_EXE_procession"));
        let shell = Self::start(shell, place);
        shell.until("prompt>");
        shell
    }

    fn start(mut command: Command, place: &Path) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let slave = || pty.slave.try_clone().unwrap();
        command.stdin(slave()).stdout(slave()).stderr(slave());
        command.env("TERM", "xterm").env("XDG_RUNTIME_DIR", place).env_remove("NO_COLOR").current_dir(place);
        let child = on_terminal(fresh(&mut command)).spawn().unwrap();
        drop(command);
        drop(pty.slave);
        let master = File::from(pty.master);
        let mut listen = master.try_clone().unwrap();
        let parser = Arc::new(Mutex::new(Parser::new(ROWS, COLUMNS, 1000)));
        let theirs = Arc::clone(&parser);
        let reader = std::thread::spawn(move || {
            let mut part = [0; 4096];
            // EIO is the end: nobody has the terminal any more.
            while let Ok(n @ 1..) = listen.read(&mut part) {
                theirs.lock().unwrap().process(&part[..n]);
            }
        });
        Self { master, child, parser, reader: Some(reader) }
    }

    pub(crate) fn press(&self, keys: &str) {
        (&self.master).write_all(keys.as_bytes()).unwrap();
    }

    /// What can be seen.
    pub(crate) fn screen(&self) -> String {
        self.parser.lock().unwrap().screen().contents()
    }

    #[track_caller]
    pub(crate) fn until(&self, text: &str) {
        self.until_it("the text is on the screen", |screen| screen.contains(text));
    }

    #[track_caller]
    pub(crate) fn until_it(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        poll_or(what, MINUTE / 3, || {
            let screen = self.screen();
            if is_so(&screen) { Ok(()) } else { Err(format!("\n{screen}\n")) }
        });
    }

    /// Its end, and what can be seen then.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        // All that it wrote has been read when nobody can write any more.
        self.reader.take().unwrap().join().unwrap();
        (status, self.screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.reader.take().into_iter().for_each(|reader| drop(reader.join()));
        }
    }
}
