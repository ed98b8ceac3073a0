//! A report as Markdown: the same tables, and pictures as links to their files.

use std::fmt::Write as _;

use crate::page::{Item, Report, Table};

/// The text; pictures are linked as `<folder>/<name>.svg`, or left out without a folder.
#[must_use]
pub fn text(report: &Report, pictures: Option<&str>) -> String {
    let mut text = format!("# {}\n\n{}\n", report.title, report.origin);
    for section in &report.sections {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n## {}\n", section.title);
        for item in &section.items {
            match item {
                Item::Text(sentence) => {
                    let _ = write!(text, "\n{sentence}\n");
                }
                Item::Table(table) if table.rows.is_empty() => {}
                Item::Table(table) => text.push_str(&markdown_table(table)),
                Item::Picture(picture) => {
                    if let Some(folder) = pictures {
                        let _ =
                            write!(text, "\n![{}]({folder}/{}.svg)\n", picture.title, picture.name);
                    }
                }
            }
        }
    }
    text
}

fn markdown_table(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let columns =
        (0..table.header.len()).map(|column| if column < table.texts { "---" } else { "---:" });
    let columns: Vec<String> = columns.map(str::to_owned).collect();
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    format!("\n{}\n\n{}{}{rows}", table.caption, line(&table.header), line(&columns))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::Picture;

    #[test]
    fn tables_and_pictures_are_markdown() {
        let mut table = Table::new("Speeds.", &["model", "ms"], 1);
        table.row(["a|b".to_owned(), "1.5".to_owned()]);
        let mut report = Report { title: "T".into(), origin: "O.".into(), sections: Vec::new() };
        report.section(
            "one",
            "One",
            vec![Item::Table(table), Item::Picture(Picture::new("p", "q", 1.0, 1.0))],
        );
        let with = text(&report, Some("pictures"));
        assert_eq!(
            with,
            "# T\n\nO.\n\n## One\n\nSpeeds.\n\n| model | ms |\n| --- | ---: |\n| a\\|b | 1.5 |\n\n![q](pictures/p.svg)\n"
        );
        assert!(!text(&report, None).contains("svg"));
    }
}
