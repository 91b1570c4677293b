//! `show errors`: the first bytes that were refused last, where HAProxy shows requests that it could not parse.

use std::fmt::Write;

use jiff::{Timestamp, tz::TimeZone};

use super::super::super::{Handle, report};
use super::rows::Whose;
use super::stat::proxies;
use super::{Answer, Answered};
use crate::api::RefusedReport;

/// Answers `show errors [PROXY|IID]`.
pub fn show(control: &Handle, arguments: &[String]) -> Answered {
    let snapshot = control.snapshot();
    let wanted = arguments.first().map(|text| proxies(text, &snapshot)).transpose()?;
    let mut list = Vec::new();
    for whose in Whose::all(&snapshot).filter(|whose| matches!(whose, Whose::Listener(_))) {
        let (number, name) = whose.proxy(&snapshot);
        if wanted.as_ref().is_none_or(|wanted| wanted.contains(&number)) {
            let refused = report::refused(control, Some(name)).unwrap_or_default();
            list.extend(refused.into_iter().map(|refused| (number, refused)));
        }
    }
    let mut text = format!("Total events captured on [{}] : {}\n", date(Timestamp::now()), list.len());
    for (event, (number, refused)) in list.iter().enumerate() {
        describe(&mut text, event, *number, refused);
    }
    Ok(Answer::Text(text))
}

fn describe(text: &mut String, event: usize, number: usize, refused: &RefusedReport) {
    let RefusedReport { listener, end, detail, client, bytes, first_bytes, .. } = refused;
    let at = refused.time.parse().map_or_else(|_| refused.time.clone(), date);
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "\n[{at}] frontend {listener} (#{number}): {end}\n  backend <NONE> (#-1), server <NONE> (#-1), event #{event}, \
         src {client}\n  {detail}; {bytes} bytes came:\n\n",
    );
    for (row, hex) in first_bytes.as_bytes().chunks(32).enumerate() {
        let _ = writeln!(text, "  {:05}  {}", row * 16, String::from_utf8_lossy(hex));
    }
}

/// HAProxy's way to write a time, in UTC.
fn date(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%d/%b/%Y:%H:%M:%S%.6f").to_string()
}
