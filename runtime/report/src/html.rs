//! A report as one page: no script, no font, no picture and no style from elsewhere, for light and dark.

use std::fmt::Write as _;

use crate::page::{Item, Report, Table};
use crate::svg::{STYLE, escaped};

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--dim:#5a6675;--rule:#d8dee6;--paper:#fff;--card:#f6f8fa;--link:#2f6fb0}
@media (prefers-color-scheme:dark){:root{--ink:#e6ebf2;--dim:#9aa7b6;--rule:#36404d;--paper:#14191f;--card:#1b222b;--link:#6aa8e8}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,'Segoe UI',Helvetica,Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:24px 20px 64px}h1{font-size:26px;margin:0 0 4px}h2{font-size:20px;margin:44px 0 10px;padding-top:10px;border-top:1px solid var(--rule)}
p{margin:8px 0;max-width:80ch}.origin{color:var(--dim)}nav{display:flex;flex-wrap:wrap;gap:6px 16px;margin:16px 0}a{color:var(--link)}
figure{margin:18px 0;padding:12px;background:var(--card);border:1px solid var(--rule);border-radius:8px;overflow-x:auto}
figure svg{display:block;width:100%;min-width:640px;height:auto}.scroll{overflow-x:auto;margin:14px 0}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums}caption{caption-side:top;text-align:left;color:var(--dim);padding:0 0 6px}
th,td{padding:3px 12px 3px 0;border-bottom:1px solid var(--rule);white-space:nowrap}th{font-weight:600;text-align:left}td.n,th.n{text-align:right}
";

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut page =
        String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    let title = escaped(&report.title);
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n<p class=\"origin\">{}</p>\n<nav>\n",
        escaped(&report.origin)
    );
    for section in &report.sections {
        let _ = writeln!(page, "<a href=\"#{}\">{}</a>", section.id, escaped(&section.title));
    }
    page.push_str("</nav>\n");
    for section in &report.sections {
        let _ =
            writeln!(page, "<section>\n<h2 id=\"{}\">{}</h2>", section.id, escaped(&section.title));
        for item in &section.items {
            match item {
                Item::Text(text) => {
                    let _ = writeln!(page, "<p>{}</p>", escaped(text));
                }
                Item::Table(table) => page.push_str(&html_table(table)),
                Item::Picture(picture) => {
                    let _ = writeln!(page, "<figure>\n{}</figure>", picture.inline());
                }
            }
        }
        page.push_str("</section>\n");
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn html_table(table: &Table) -> String {
    if table.rows.is_empty() {
        return String::new();
    }
    let class = |column: usize| if column < table.texts { "" } else { " class=\"n\"" };
    let cells = |cells: &[String], tag: &str| -> String {
        let cell = |(column, cell): (usize, &String)| {
            format!("<{tag}{}>{}</{tag}>", class(column), escaped(cell))
        };
        cells.iter().enumerate().map(cell).collect()
    };
    let rows: Vec<String> =
        table.rows.iter().map(|row| format!("<tr>{}</tr>", cells(row, "td"))).collect();
    format!(
        "<div class=\"scroll\"><table>\n<caption>{}</caption>\n<thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody>\n</table></div>\n",
        escaped(&table.caption),
        cells(&table.header, "th"),
        rows.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::svg::Picture;

    /// Nothing on the page comes from elsewhere, and what results say is text.
    #[test]
    fn a_page_stands_alone() {
        let mut table = Table::new("speeds", &["model", "ms"], 1);
        table.row(["<script>alert(1)</script>".to_owned(), "1.5".to_owned()]);
        let mut report =
            Report { title: "A & B".into(), origin: "from <here>".into(), sections: Vec::new() };
        report.section(
            "one",
            "One",
            vec![Item::Table(table), Item::Picture(Picture::new("p", "p", 1.0, 1.0))],
        );
        report.section("two", "Two", vec![Item::Text("nothing to show".into())]);
        let page = page(&report);
        for part in [
            "A &amp; B",
            "from &lt;here&gt;",
            "&lt;script&gt;",
            "<td class=\"n\">1.5</td>",
            "href=\"#one\"",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        for outside in
            ["<script", "src=", "url(", "@import", "<link", "href=\"http", "nothing to show"]
        {
            assert!(!page.contains(outside), "{outside}: {page}");
        }
    }
}
