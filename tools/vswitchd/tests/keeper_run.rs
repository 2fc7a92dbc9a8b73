//! The keeper as a whole: this program is the tests, and the daemon they start, with an engine that does what it is
//! told on the control socket. As root and as an ordinary user.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail loudly too"
)]

mod run;

use std::process::ExitCode;

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("starts_and_ends_without_a_trace", run::root::starts_and_ends_without_a_trace),
    ("the_service_manager_is_told", run::root::the_service_manager_is_told),
    ("the_engine_has_no_privilege", run::root::the_engine_has_no_privilege),
    ("a_dead_engine_is_replaced_and_nobody_notices", run::root::a_dead_engine_is_replaced_and_nobody_notices),
    ("an_engine_that_keeps_dying_is_not_started_in_a_spin", run::root::an_engine_that_keeps_dying),
    ("a_reload_is_not_lost_between_engines", run::root::a_reload_is_not_lost_between_engines),
    ("an_engine_that_is_deaf_is_replaced", run::root::an_engine_that_is_deaf_is_replaced),
    ("an_engine_that_does_not_end_is_killed", run::root::an_engine_that_does_not_end_is_killed),
    ("a_fatal_word_ends_the_daemon", run::root::a_fatal_word_ends_the_daemon),
    ("the_configuration_is_read_again_and_the_accepted_one_kept", run::root::the_configuration_is_read_again),
    ("a_second_daemon_is_refused", run::root::a_second_daemon_is_refused),
    ("what_a_killed_daemon_left_is_removed_by_the_next", run::root::what_a_killed_daemon_left),
    ("commands_run_inside_are_logged_restarted_and_ended", run::root::commands_run_inside),
    ("of_overlapping_requests_the_last_one_counts", run::root::of_overlapping_requests_the_last_one_counts),
    ("a_command_follows_its_namespace", run::root::a_command_follows_its_namespace),
    ("another_process_can_enter", run::root::another_process_can_enter),
    ("a_removed_name_is_noticed", run::root::a_removed_name_is_noticed),
    ("a_great_many_containers_start_quickly", run::root::a_great_many_containers),
    ("another_daemon_takes_over", run::takeover::another_daemon_takes_over),
    ("an_heir_that_fails_leaves_all_as_it_was", run::takeover::an_heir_that_fails),
    ("an_heir_that_dies_leaves_all_as_it_was", run::takeover::an_heir_that_dies),
    ("an_heir_of_another_state_folder_is_refused", run::takeover::an_heir_of_another_state_folder),
    ("other_versions_and_nonsense_are_refused", run::takeover::other_versions_and_nonsense),
    ("rootless_another_daemon_takes_over", run::rootless::another_daemon_takes_over),
    ("rootless_makes_serves_and_forgets_a_container", run::rootless::makes_serves_and_forgets),
    ("rootless_reaches_a_container_of_the_same_user", run::rootless::reaches_a_container_of_the_same_user),
    ("rootless_is_refused_what_belongs_to_root", run::rootless::is_refused_what_belongs_to_root),
    ("rootless_says_why_not", run::rootless::says_why_not),
];

fn main() -> ExitCode {
    // The daemon's helpers, its engine, the daemon itself, a visitor: one thread each at this point.
    if let Some(code) = vswitchd::keeper::helper() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["engine", rest @ ..] => run::engine::main(rest),
        ["daemon", folder, engine @ ..] => run::daemon::main(folder, engine),
        ["visit", target, program @ ..] => run::daemon::visit(target, program),
        arguments => harness(arguments),
    }
}

/// What `cargo test` and `cargo nextest` ask of a test program.
fn harness(arguments: &[&str]) -> ExitCode {
    let wanted = |flag: &str| arguments.contains(&flag);
    let mut values = arguments.iter().copied();
    let mut names = Vec::new();
    while let Some(argument) = values.next() {
        match argument {
            "--format" | "--skip" | "--test-threads" | "--color" | "--logfile" => {
                values.next();
            }
            name if !name.starts_with('-') => names.push(name),
            _ => {}
        }
    }
    let chosen = TESTS.iter().filter(|(test, _)| {
        names.is_empty()
            || names.iter().any(|name| if wanted("--exact") { test == name } else { test.contains(name) })
    });
    // None is ever ignored.
    let chosen: Vec<_> = if wanted("--ignored") { Vec::new() } else { chosen.collect() };
    if wanted("--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let mut failed = false;
    for (name, test) in chosen {
        let passed = std::panic::catch_unwind(test).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed |= !passed;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
