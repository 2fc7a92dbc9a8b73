//! State files and messages that fuzzing found worth keeping, and some that are made. What must hold is in
//! `corpus/states.rs` and `corpus/messages.rs`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../../switch/tests/corpus/maker.rs"]
mod maker;
#[path = "corpus/messages.rs"]
mod messages;
#[path = "../../../switch/tests/corpus/replay.rs"]
mod replay;
#[path = "corpus/states.rs"]
mod states;

#[test]
fn an_engine_begins_with_any_state_folder_and_loses_nothing_of_it() {
    let read = replay::all("states", (600, 600), states::check);
    assert!(read > 20, "only {read} folders could be read");
}

#[test]
fn any_message_is_understood_or_refused() {
    let understood = replay::all("messages", (1000, 200), messages::check);
    assert!(understood >= 8, "only {understood} are messages");
}
