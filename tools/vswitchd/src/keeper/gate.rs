//! A container that is being released is asked nothing: what comes meanwhile waits until it is gone, so that nothing
//! new is torn down with the old.

use std::collections::HashMap;

/// `R` is a request.
#[derive(Debug)]
pub(super) struct Gate<R> {
    closed: HashMap<String, Vec<R>>,
}

impl<R> Gate<R> {
    pub(super) fn new() -> Self {
        Self { closed: HashMap::new() }
    }

    pub(super) fn is_closed(&self, container: &str) -> bool {
        self.closed.contains_key(container)
    }

    /// Whether no container is being released.
    pub(super) fn is_open(&self) -> bool {
        self.closed.is_empty()
    }

    pub(super) fn close(&mut self, container: &str) {
        self.closed.entry(container.to_owned()).or_default();
    }

    /// The request comes back where the way is free; else it waits.
    pub(super) fn pass(&mut self, container: Option<&str>, request: R) -> Option<R> {
        match container.and_then(|container| self.closed.get_mut(container)) {
            Some(waiting) => {
                waiting.push(request);
                None
            }
            None => Some(request),
        }
    }

    /// What waited, in the order in which it came.
    pub(super) fn open(&mut self, container: &str) -> Vec<R> {
        self.closed.remove(container).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_during_a_release_waits_in_order() {
        let mut gate = Gate::new();
        assert_eq!(gate.pass(Some("web"), 1), Some(1));
        gate.close("web");
        assert!(gate.is_closed("web") && !gate.is_closed("db"));
        assert_eq!((gate.pass(Some("web"), 2), gate.pass(Some("web"), 3)), (None, None));
        assert_eq!((gate.pass(Some("db"), 4), gate.pass(None, 5)), (Some(4), Some(5)));
        assert_eq!(gate.open("web"), [2, 3]);
        assert_eq!(gate.pass(Some("web"), 6), Some(6));
    }
}
