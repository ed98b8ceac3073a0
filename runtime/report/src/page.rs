//! A report as data: sections of texts, tables and pictures, which [`crate::html`] and [`crate::markdown`] write.

use crate::svg::Picture;

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows, in a sentence.
    pub caption: String,
    /// Names of its columns.
    pub header: Vec<String>,
    /// Its cells.
    pub rows: Vec<Vec<String>>,
    /// Columns whose cells are texts; all others are numbers and stand to the right.
    pub texts: usize,
}

impl Table {
    /// A table without rows; the first `texts` columns are texts.
    #[must_use]
    pub fn new(caption: &str, header: &[&str], texts: usize) -> Table {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Table { caption: caption.to_owned(), header, rows: Vec::new(), texts }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

/// What a section has.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A sentence or several.
    Text(String),
    /// A table.
    Table(Table),
    /// A picture.
    Picture(Picture),
}

/// A section.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its name in links.
    pub id: &'static str,
    /// Its title.
    pub title: String,
    /// What it has, in order.
    pub items: Vec<Item>,
}

/// A report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Its title.
    pub title: String,
    /// Where its figures come from, in a sentence.
    pub origin: String,
    /// Its sections.
    pub sections: Vec<Section>,
}

impl Report {
    /// Adds a section, unless it has nothing to show.
    pub fn section(&mut self, id: &'static str, title: &str, items: Vec<Item>) {
        let shows = |item: &Item| match item {
            Item::Text(_) => false,
            Item::Table(table) => !table.rows.is_empty(),
            Item::Picture(_) => true,
        };
        if items.iter().any(shows) {
            self.sections.push(Section { id, title: title.to_owned(), items });
        }
    }

    /// Every picture, in order.
    pub fn pictures(&self) -> impl Iterator<Item = &Picture> {
        self.sections.iter().flat_map(|section| &section.items).filter_map(|item| match item {
            Item::Picture(picture) => Some(picture),
            _ => None,
        })
    }
}
