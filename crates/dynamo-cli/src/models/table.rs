//! Text in columns.

use std::fmt::Write as _;

/// Rows under a heading, each column as wide as its widest cell.
pub(super) fn columns<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in [&heading.map(str::to_owned)].into_iter().chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let cell = if cell.is_empty() { "-" } else { cell };
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}   ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A text that shows as it is stored: what moves the cursor or the direction of text is escaped.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        let deceives = c.is_control()
            || matches!(c, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2066}'..='\u{2069}' | '\u{feff}');
        if deceives { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_an_empty_cell_shows() {
        let rows =
            [["a".to_owned(), String::new(), "x".into()], ["ünï".into(), "bb".into(), "y".into()]];
        let expected = "A     B    LAST\na     -    x\nünï   bb   y\n";
        assert_eq!(columns(["A", "B", "LAST"], &rows), expected);
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(escaped("a\n\u{1b}[2J\u{202e}é"), "a\\u{a}\\u{1b}[2J\\u{202e}é");
    }
}
