//! `exec`: a command in a container, in place of this process.

use std::ffi::OsString;

use vswitchd::keeper;
use vswitchd::wire::Target;

use crate::client::{Client, segment};
use crate::failure::Failure;

/// Becomes the command; comes back only with a failure.
///
/// # Privileges
/// Those of a process that may join the container's namespaces: root's, or the daemon's user.
pub fn exec(client: Client, container: &str, argv: &[OsString]) -> Failure {
    let target: Target = match client.get(&format!("/v1/containers/{}/target", segment(container))) {
        Ok(target) => target,
        Err(failure) => return failure,
    };
    // setns(2): a user namespace can be joined by a process of one thread only. The client has none of its own, and
    // nothing of it is to be inherited.
    drop(client);
    if let Err(error) = keeper::enter(&target) {
        return Failure::Enter(error);
    }
    let source = keeper::exec(argv);
    let program = argv.first().map(|program| program.to_string_lossy().into_owned()).unwrap_or_default();
    Failure::Exec { program, source }
}
