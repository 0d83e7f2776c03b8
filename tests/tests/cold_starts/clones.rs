//! Many instances from one snapshot.

use std::{
    collections::BTreeSet,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use costrel_tests::unhurried;

use super::*;

/// How many at once.
const AT_ONCE: usize = 16;

/// How far a clone's clock may be from ours, beside the time that its answer takes.
const CLOCK_LIMIT: f64 = 0.5;

fn seconds() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

/// Restores so many, up to 16 at a time, and gives what each has answered. All clocks are right.
fn clones(count: usize, call: impl Fn() -> Costrel + Sync) -> Vec<serde_json::Value> {
    let (left, answers) = (Mutex::new(count), Mutex::new(Vec::new()));
    let next = || {
        let mut left = left.lock().unwrap();
        let some = *left > 0;
        *left = left.saturating_sub(1);
        some
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while next() {
                    let began = seconds();
                    let answer = restored(call()).payload();
                    let ended = seconds();
                    let time = answer["time"].as_f64().unwrap();
                    let right = began - CLOCK_LIMIT..ended + CLOCK_LIMIT;
                    assert!(right.contains(&time), "{time} is not in {right:?}");
                    answers.lock().unwrap().push(answer);
                }
            });
        }
    });
    answers.into_inner().unwrap()
}

fn all_differ(answers: &[serde_json::Value], what: &str) {
    let values: BTreeSet<String> = answers.iter().map(|answer| answer[what].to_string()).collect();
    assert_eq!(values.len(), answers.len(), "{what}: {answers:#?}");
    assert!(!values.contains("null"), "{what}: {answers:#?}");
}

/// 100, or fewer where a machine takes its time.
fn how_many() -> usize {
    if is_long() { 100 } else { 100 / (unhurried(1) as usize).pow(2) }
}

#[test]
fn python_clones_are_their_own() {
    let home = Home::private();
    let unique = || python(&home, "unique.handler", "{}");
    let original = booted(unique()).payload();
    let before = content(&the_snapshot(&home));
    // The clock of one that sleeps in the snapshot for long is right as well.
    std::thread::sleep(Duration::from_secs(2));
    let mut answers = clones(how_many(), unique);
    answers.push(original);
    for what in ["getrandom", "uuid", "random"] {
        all_differ(&answers, what);
    }
    assert!(answers.iter().all(|answer| answer["invocations"] == 1), "{answers:#?}");
    assert!(content(&the_snapshot(&home)) == before, "the snapshot has changed");
}

#[test]
fn rust_clones_are_their_own() {
    let home = Home::private();
    let unique = || rust(&home, r#"{"case":"unique"}"#);
    let original = booted(unique()).payload();
    let before = content(&the_snapshot(&home));
    let mut answers = clones(how_many(), unique);
    answers.push(original);
    all_differ(&answers, "getrandom");
    assert!(content(&the_snapshot(&home)) == before, "the snapshot has changed");
}
