//! A stream cut into lines, byte for byte.

/// A line longer than this is passed on in parts.
const LONGEST: usize = 1 << 20;

/// What has come of a line that is not complete.
#[derive(Debug, Default)]
pub(super) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The longest front of what has come, with these bytes, that may be passed on: whole lines, or a part of a line that is
    /// too long to keep. With `at_once`, everything.
    pub(super) fn push(&mut self, bytes: &[u8], at_once: bool, mut pass: impl FnMut(&[u8])) {
        let cut = if at_once {
            bytes.len()
        } else {
            bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1)
        };
        let (whole, rest) = bytes.split_at(cut);
        if !whole.is_empty() {
            if self.rest.is_empty() {
                pass(whole);
            } else {
                self.rest.extend_from_slice(whole);
                pass(&self.rest);
                self.rest.clear();
            }
        }
        self.rest.extend_from_slice(rest);
        if self.rest.len() > LONGEST {
            pass(&self.rest);
            self.rest = Vec::new();
        }
    }

    /// The stream has ended: what is left, without a newline that was never there.
    pub(super) fn end(&mut self, mut pass: impl FnMut(&[u8])) {
        if !self.rest.is_empty() {
            pass(&self.rest);
            self.rest = Vec::new();
        }
    }
}

/// Who wrote last to a stream that several write to, and did the line end?
#[derive(Debug, Default)]
pub(crate) struct Pen {
    inside: Option<u64>,
}

impl Pen {
    /// Appends to `out` what `writer` has to say: each line behind its tag; on a line of its own if another's was not ended.
    pub(crate) fn write(&mut self, writer: u64, tag: &[u8], text: &[u8], out: &mut Vec<u8>) {
        if self.inside.is_some_and(|inside| inside != writer) {
            out.push(b'\n');
            self.inside = None;
        }
        if tag.is_empty() {
            out.extend_from_slice(text);
        } else {
            for line in text.split_inclusive(|&b| b == b'\n') {
                if self.inside.is_none() {
                    out.extend_from_slice(tag);
                }
                out.extend_from_slice(line);
                self.inside = None;
            }
        }
        self.inside = (text.last() != Some(&b'\n')).then_some(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_added_and_nothing_lost(parts: Vec<Vec<u8>>, at_once: bool) {
            let (mut lines, mut came) = (Lines::default(), Vec::new());
            for part in &parts {
                lines.push(part, at_once, |text| {
                    assert!(at_once || text.ends_with(b"\n"));
                    came.extend_from_slice(text);
                });
            }
            lines.end(|text| came.extend_from_slice(text));
            prop_assert_eq!(came, parts.concat());
        }

        #[test]
        fn without_tags_one_writer_s_bytes_are_as_they_were(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..20)) {
            let (mut pen, mut out) = (Pen::default(), Vec::new());
            for part in &parts {
                pen.write(1, b"", part, &mut out);
            }
            prop_assert_eq!(out, parts.concat());
        }
    }

    #[test]
    fn each_line_has_its_tag_and_its_own_line() {
        let (mut pen, mut out) = (Pen::default(), Vec::new());
        pen.write(1, b"a | ", b"one\ntwo\n", &mut out);
        pen.write(1, b"a | ", b"half", &mut out);
        pen.write(1, b"a | ", b" and half\n", &mut out);
        pen.write(2, b"b | ", b"open", &mut out);
        pen.write(1, b"a | ", b"\n", &mut out);
        let text = "a | one\na | two\na | half and half\nb | open\na | \n";
        assert_eq!(String::from_utf8_lossy(&out), text);
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let (mut lines, mut came) = (Lines::default(), 0);
        for _ in 0..100 {
            lines.push(&[b'x'; 65536], false, |text| came += text.len());
            assert!(lines.rest.len() <= LONGEST + 65536);
        }
        assert!(came > 4 << 20);
    }
}
