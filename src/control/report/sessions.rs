//! Collects open sessions from the workers.

use std::sync::Arc;
use std::time::Duration;

use super::super::Control;
use crate::api::{SessionReport, SessionsParams, SortBy};

/// How long workers may take to list their sessions.
const LIST_LIMIT: Duration = Duration::from_secs(2);

/// Sessions that match, sorted as wished.
pub async fn sessions(control: &Control, wanted: SessionsParams) -> Vec<SessionReport> {
    let wanted = Arc::new(wanted);
    let answers = control.plane.borrow().list_sessions(&wanted);
    let mut list = Vec::new();
    for answer in answers {
        // A worker that is ending does not answer.
        if let Ok(Ok(sessions)) = tokio::time::timeout(LIST_LIMIT, answer).await {
            list.extend(sessions);
        }
    }
    list.sort_by_key(|session: &SessionReport| {
        std::cmp::Reverse(match wanted.sort {
            SortBy::Age => session.age_ms,
            SortBy::Idle => session.idle_ms,
            SortBy::Bytes => session.bytes_up + session.bytes_down,
        })
    });
    list.truncate(wanted.limit.unwrap_or(usize::MAX));
    list
}

/// Their ids as numbers, in the same order.
pub fn ids(sessions: &[SessionReport]) -> Vec<u64> {
    sessions.iter().filter_map(|session| u64::from_str_radix(&session.session, 16).ok()).collect()
}
