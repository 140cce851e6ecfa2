use std::fmt;

use ratatui::text::Span;

use crate::words::printable;

/// Rows under headings, each column as wide as its widest cell. Numbers stand to the right.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(str::to_owned).into()] }
    }

    /// Adds a row; its cells are in the order of the headings.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let column = |at: usize| self.rows.iter().filter_map(move |row| row.get(at));
        let width = |cell: &String| Span::raw(cell.as_str()).width();
        let widths: Vec<usize> =
            (0..columns).map(|at| column(at).map(width).max().unwrap_or(0)).collect();
        let is_number = |cell: &String| cell.bytes().all(|byte| byte.is_ascii_digit());
        let numeric: Vec<bool> = (0..columns)
            .map(|at| self.rows.len() > 1 && column(at).skip(1).all(is_number))
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate() {
                let space = " ".repeat(widths[at] - width(cell));
                let gap = if at == 0 { "" } else { "  " };
                line += gap;
                line += &if numeric[at] { space + cell } else { cell.clone() + &space };
            }
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let mut table = Table::new(["JOB", "NAME", "STATE"]);
        table.row(["7".into(), "a longer näme".into(), "queued".into()]);
        table.row(["1234".into(), "b".into(), "finished".into()]);
        let lines = [
            " JOB  NAME           STATE",
            "   7  a longer näme  queued",
            "1234  b              finished",
        ];
        assert_eq!(table.to_string(), lines.join("\n"));
    }
}
