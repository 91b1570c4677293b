//! Health checks against real servers and against such as misbehave.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod exec;
mod http;
mod mysql;
mod postgres;
mod redis;
mod services;
mod tls;
