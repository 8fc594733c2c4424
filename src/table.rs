//! A table for people: columns as wide as what stands in them, the header dim on a terminal and nothing coloured elsewhere.

use std::fmt;
use std::io::IsTerminal as _;

const BETWEEN: &str = "  ";

pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
    coloured: bool,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Table {
        Table {
            header: header.iter().map(|cell| (*cell).to_owned()).collect(),
            rows: Vec::new(),
            coloured: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn width(&self, column: usize) -> usize {
        let cells = std::iter::once(&self.header).chain(&self.rows);
        let widths = cells.filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        widths.max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate();
            let cells = cells.map(|(column, cell)| format!("{cell:<width$}", width = self.width(column)));
            cells.collect::<Vec<_>>().join(BETWEEN).trim_end().to_owned()
        };
        let (dim, plain) = if self.coloured {
            ("\x1b[2m", "\x1b[0m")
        } else {
            ("", "")
        };
        writeln!(f, "{dim}{}{plain}", line(&self.header))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}
