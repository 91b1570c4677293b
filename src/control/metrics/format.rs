//! Which of the two formats a scraper gets. Both write values and labels alike; they differ in the heads of families.

use std::fmt::Write;

use mediatype::{MediaType, MediaTypeList, Name, ReadParams};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4, which everything reads.
    Text,
}

impl Format {
    /// OpenMetrics where `accept`, a header of HTTP, likes it at least as well; otherwise text, which is also what a
    /// client gets that wants neither.
    pub fn of(accept: &str) -> Self {
        let (mut open, mut text) = (0.0, 0.0);
        // What cannot be read is not asked for.
        for range in MediaTypeList::new(accept).flatten() {
            let liked = parameter(&range, "q").map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            match range.essence().to_string().to_ascii_lowercase().as_str() {
                "application/openmetrics-text" if parameter(&range, "version").is_none_or(|it| it == "1.0.0") => {
                    open = f64::max(open, liked);
                }
                "text/plain" | "text/*" | "*/*" => text = f64::max(text, liked),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// What `Content-Type` says of it.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

fn parameter(range: &MediaType<'_>, name: &str) -> Option<String> {
    Some(range.get_param(Name::new(name)?)?.unquoted_str().into_owned())
}

/// The same metrics in Prometheus' text format: there, the head of a counter's family has the name of its samples, and
/// nothing marks the end. Other lines are the same.
pub fn as_text(open: &str) -> String {
    let mut text = String::with_capacity(open.len() + open.len() / 64);
    let mut help = "";
    for line in open.lines() {
        if let Some(head) = line.strip_prefix("# HELP ") {
            help = head.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|head| head.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            // Writing into a string cannot fail.
            let _ = writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}");
        } else if line != "# EOF" {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_gets_what_it_likes_best() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                          text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [prometheus, "application/openmetrics-text", "application/openmetrics-text; version=1.0.0, */*"] {
            assert_eq!(Format::of(accept), Format::OpenMetrics, "{accept}");
        }
        let old = "application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5";
        let less = "text/plain, application/openmetrics-text;q=0.9";
        let never = "application/openmetrics-text;q=0";
        let broken = ",,;q=x,application/openmetrics-text;q=x";
        for accept in ["", "*/*", "text/html", old, less, never, broken] {
            assert_eq!(Format::of(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn only_heads_of_families_are_written_anew() {
        let open =
            "# HELP a Things\n# TYPE a counter\na_total{b=\"# TYPE \\n\"} 1\n# HELP c \n# TYPE c gauge\nc 2\n# EOF\n";
        let text = "# HELP a_total Things\n# TYPE a_total counter\na_total{b=\"# TYPE \\n\"} 1\n# HELP c \n# TYPE c gauge\nc 2\n";
        assert_eq!(as_text(open), text);
    }
}
