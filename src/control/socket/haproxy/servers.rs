//! `show servers state`, `show servers conn` and `show backend`: lists of servers and pools.

use std::sync::atomic::Ordering;

use super::super::super::Handle;
use super::super::super::failure::Failure;
use super::check_words::{Health, check_status};
use super::rows::Whose;
use super::server_row::{age, ready};
use super::{Answer, Answered};
use crate::config::Backend as Configured;
use crate::state::{Admin, BackendShard, Padded, Snapshot, Standing};

/// Answers `show backend`.
pub fn backends(control: &Handle) -> Answer {
    let snapshot = control.snapshot();
    let names = snapshot.pools.iter().flat_map(|pool| [&*pool.config.name, "\n"]);
    Answer::Text(["# name\n"].into_iter().chain(names).collect())
}

/// Answers `show servers state [POOL]`, version 1 of the format.
pub fn state(control: &Handle, arguments: &[String]) -> Answered {
    let header = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
                  srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
                  srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
                  srv_check_port srv_check_addr srv_agent_addr srv_agent_port\n";
    list(control, arguments, header.to_owned(), state_line)
}

/// Answers `show servers conn [POOL]`.
pub fn connections(control: &Handle, arguments: &[String]) -> Answered {
    let header = format!(
        "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim \
         idle_cur idle_per_thr[{}]\n",
        control.snapshot().workers
    );
    list(control, arguments, header, connections_line)
}

fn list(
    control: &Handle,
    arguments: &[String],
    header: String,
    line: fn(&Snapshot, usize, usize) -> String,
) -> Answered {
    let snapshot = control.snapshot();
    let wanted = arguments.first();
    if wanted.is_some_and(|name| snapshot.pools.iter().all(|pool| *pool.config.name != **name)) {
        return Err(Failure::new("no_such_pool", "Can't find backend."));
    }
    let meant = |name: &str| wanted.is_none_or(|wanted| wanted == name);
    let servers: Vec<Whose> = Whose::all(&snapshot).filter(|whose| meant(whose.proxy(&snapshot).1)).collect();
    let lines = servers.into_iter().filter_map(move |whose| match whose {
        Whose::Server(pool, member) => Some(line(&snapshot, pool, member)),
        Whose::Listener(_) | Whose::Pool(_) => None,
    });
    Ok(Answer::Pieces(Box::new([header].into_iter().chain(lines))))
}

fn state_line(snapshot: &Snapshot, place: usize, member: usize) -> String {
    let (pool, whose) = (&snapshot.pools[place], Whose::Server(place, member));
    let (backend, share) = (&pool.backends[member], pool.shares[member]);
    let configured: &Configured = &pool.config.backends[member];
    let vitals = backend.vitals();
    let operation = match backend.standing() {
        Standing::Up | Standing::Unchecked | Standing::Draining => 2,
        Standing::Ejected | Standing::Down | Standing::Disabled => 0,
    };
    // Forced by a word: 1 for maintenance, 8 for draining.
    let admin = match vitals.overrides.admin.in_force().map(|word| word.said) {
        Some(Admin::Disabled) => 1,
        Some(Admin::Draining) => 8,
        Some(Admin::Ready) | None => 0,
    };
    // Nothing configured; configured and at work.
    let (check, result, health, state) = pool.config.health.as_ref().map_or((1, 0, 0, 0), |check| {
        let result = vitals.check.ok.map_or(0, |ok| if ok { 3 } else { 2 });
        (check_status(check, &vitals).0.number, result, Health::of(check, &vitals).points, 6)
    });
    let target = configured.address.target().map_or_else(|| "-".to_owned(), ToString::to_string);
    format!(
        "{} {} {} {} {} {operation} {admin} {} {} {} {check} {result} {health} {state} 0 0 0 {target} {} - 0 0 - - 0\n",
        whose.proxy(snapshot).0,
        backend.pool,
        whose.service(),
        backend.name,
        backend.address.ip(),
        share.weight,
        configured.weight,
        age(vitals.since),
        backend.address.port(),
    )
}

fn connections_line(snapshot: &Snapshot, place: usize, member: usize) -> String {
    let (backend, whose) = (&snapshot.pools[place].backends[member], Whose::Server(place, member));
    let of_worker = |shard: &Padded<BackendShard>| format!(" {}", shard.ready.load(Ordering::Relaxed).max(0));
    let per_worker: String = (0..snapshot.workers).map(|worker| of_worker(&backend.shards[worker])).collect();
    let ready = ready(backend);
    format!(
        "{}/{} {}/{} {} {} - 0 {} {} 0 0 {ready} -1 {ready}{per_worker}\n",
        backend.pool,
        backend.name,
        whose.proxy(snapshot).0,
        whose.service(),
        backend.address.ip(),
        backend.address.port(),
        backend.active.count(),
        backend.trend.shape().most_active,
    )
}
