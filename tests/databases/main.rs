//! PostgreSQL: clients, servers, what comes before TLS.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod preface;
mod sessions;
mod tls;
