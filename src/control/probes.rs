//! Who is checked by whom: a keeper for every backend, and one prober for all who ask the same of an address. A reload
//! changes what changed and leaves the others alone.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use super::keeper::Keeper;
use super::prober::{Prober, Subject};
use super::{Handle, standing};
use crate::decide::health::Health;
use crate::state::{Pool, Snapshot};

/// Checks of one pool at once. Chosen: keeps 1 000 dead backends from holding 1 000 descriptors for their time-outs,
/// and a pool of dead backends from delaying the checks of another.
const AT_ONCE: usize = 256;
/// Longest wait for the first answers before clients are sent to new backends.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// All keepers and probers.
#[derive(Default)]
pub struct Probes {
    /// By the backend's address in memory, which is its identity while it is held.
    keepers: HashMap<usize, (Rc<Keeper>, Task)>,
    probers: HashMap<Subject, (Rc<Prober>, Task)>,
    permits: HashMap<Arc<str>, Rc<Semaphore>>,
}

/// A task that ends with its handle.
struct Task(AbortHandle);

impl Task {
    fn spawn(work: impl Future<Output = ()> + 'static) -> Self {
        Self(spawn_local(work).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Probes {
    /// Has the keepers of a pool look whether it can still do without those that are ejected.
    pub fn look_at(&self, pool: &Pool) {
        for backend in &pool.backends {
            if let Some((keeper, _)) = self.keepers.get(&(Arc::as_ptr(backend) as usize)) {
                keeper.look();
            }
        }
    }

    /// All keepers.
    pub fn keepers(&self) -> impl Iterator<Item = &Rc<Keeper>> {
        self.keepers.values().map(|(keeper, _)| keeper)
    }

    fn permits_of(&mut self, pool: &Pool) -> Rc<Semaphore> {
        let permits = self.permits.entry(Arc::clone(&pool.config.name));
        Rc::clone(permits.or_insert_with(|| Rc::new(Semaphore::new(AT_ONCE))))
    }
}

/// Starts checks of new backends, changes those that changed, stops those of backends that are gone, and waits for
/// the first answers, for a while: one that is late only delays traffic to its backend.
pub async fn apply_and_wait(control: &Handle, snapshot: &Snapshot) {
    let mut answers = apply(control, snapshot);
    standing::sum_up_all(control, snapshot);
    let _ = timeout(FIRST_ANSWERS, answers.wait_for(|waiting| *waiting == 0)).await;
}

/// The same without waiting, unless there are backends of which nothing is known.
pub async fn apply_to_known(control: &Handle, snapshot: &Snapshot) {
    if snapshot.backends().any(|(_, backend)| backend.health() == Health::Unknown) {
        apply_and_wait(control, snapshot).await;
    } else {
        drop(apply(control, snapshot));
        standing::sum_up_all(control, snapshot);
    }
}

/// Returns how many first answers are still to come.
fn apply(control: &Handle, snapshot: &Snapshot) -> watch::Receiver<usize> {
    let (waiting, answers) = watch::channel(0);
    let waiting = Rc::new(waiting);
    let mut probes = control.probes.borrow_mut();
    let mut old_keepers = std::mem::take(&mut probes.keepers);
    let mut going_on = Vec::new();
    let mut asked: Vec<(Subject, Rc<Semaphore>, Vec<Rc<Keeper>>)> = Vec::new();
    let mut places: HashMap<Subject, usize> = HashMap::new();
    for (pool, backend) in snapshot.backends() {
        let identity = Arc::as_ptr(backend) as usize;
        let (keeper, task) = if let Some((keeper, task)) = old_keepers.remove(&identity) {
            going_on.push((Rc::clone(&keeper), pool));
            (keeper, task)
        } else {
            let keeper = Keeper::new(control, pool, backend);
            let task = Task::spawn(Rc::clone(&keeper).watch());
            (keeper, task)
        };
        if let Some(subject) = Subject::of(pool, backend) {
            let place = *places.entry(subject.clone()).or_insert(asked.len());
            if place == asked.len() {
                asked.push((subject, probes.permits_of(pool), Vec::new()));
            }
            asked[place].2.push(Rc::clone(&keeper));
        } else {
            // Nobody looks at the certificate any more.
            backend.change(|vitals| vitals.check.certificate = None);
        }
        probes.keepers.insert(identity, (keeper, task));
    }
    let mut old_probers = std::mem::take(&mut probes.probers);
    let mut joined = Vec::new();
    for (subject, permits, keepers) in asked {
        let (prober, task) = old_probers.remove(&subject).unwrap_or_else(|| {
            waiting.send_modify(|count| *count += 1);
            let prober = Prober::new(subject.clone(), permits);
            let task = Task::spawn(Rc::clone(&prober).run(First(Some(Rc::clone(&waiting)))));
            (prober, task)
        });
        joined.push((Rc::clone(&prober), keepers));
        probes.probers.insert(subject, (prober, task));
    }
    // What a keeper learns, or forgets, may lead anywhere, back here too.
    drop(probes);
    for (keeper, pool) in going_on {
        keeper.go_on(pool);
    }
    for (prober, keepers) in joined {
        prober.serve(keepers);
    }
    answers
}

/// Counts down once the first answer is there, or the check is given up.
pub struct First(Option<Rc<watch::Sender<usize>>>);

impl First {
    /// The answer is there.
    pub fn answered(&mut self) {
        if let Some(waiting) = self.0.take() {
            waiting.send_modify(|count| *count -= 1);
        }
    }
}

impl Drop for First {
    fn drop(&mut self) {
        self.answered();
    }
}
