//! What fred's errors mean for the command that met them.

use fred::error::{Error, ErrorKind};

use crate::store::StoreError;

/// What may be done after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The command was not carried out and will soon be, here or by another node: any command may be sent again.
    NotYet,
    /// The connection broke: the command may have been carried out, or not.
    Broken,
    /// No answer in time: the same, and the server may be hung.
    Silent,
    /// Sending it again would not help.
    Final,
}

/// What servers say when they refuse a command for the moment.
const NOT_YET: [&str; 4] = ["ASK", "MASTERDOWN", "TRYAGAIN", "BUSY"];

/// What they say that ends fred's connection: it is told to all who wait on it, whose commands may have been carried out.
const BREAKING: [&str; 3] = ["CLUSTERDOWN", "LOADING", "READONLY"];

/// There is no connection to send by.
const NOWHERE: &str = "no connection to the server";

/// fred's words for a command that it gave up on, or that was with a client that ended.
const GIVEN_UP: [&str; 4] = [
    "Too many failed write attempts.",
    "Failed to route command.",
    "Failed to send command to router.",
    "channel closed",
];

pub(super) fn nowhere() -> Error {
    Error::new(ErrorKind::Routing, NOWHERE)
}

/// Whether a command was not sent at all.
pub(super) fn is_nowhere(error: &Error) -> bool {
    error.details() == NOWHERE
}

pub(super) fn failure(error: &Error, clustered: bool) -> Failure {
    let details = error.details();
    let word = details.split_whitespace().next().unwrap_or_default();
    if is_nowhere(error) || NOT_YET.contains(&word) {
        return Failure::NotYet;
    }
    if word == "MOVED" {
        return if clustered { Failure::NotYet } else { Failure::Final };
    }
    match error.kind() {
        _ if BREAKING.contains(&word) => Failure::Broken,
        ErrorKind::IO | ErrorKind::Canceled | ErrorKind::Routing | ErrorKind::Tls | ErrorKind::Sentinel => {
            Failure::Broken
        }
        // Replies that cannot be read say that the connection is out of step; the client drops it.
        ErrorKind::Protocol => Failure::Broken,
        ErrorKind::Timeout => Failure::Silent,
        _ if GIVEN_UP.contains(&details) => Failure::Broken,
        _ => Failure::Final,
    }
}

/// Whether it was a server that answered, so that the connection is well.
pub(super) fn is_answer(error: &Error, clustered: bool) -> bool {
    matches!(failure(error, clustered), Failure::NotYet | Failure::Final)
}

pub(super) fn store_error(error: &Error) -> StoreError {
    match error.kind() {
        ErrorKind::Timeout => StoreError::Timeout,
        ErrorKind::InvalidArgument if error.details().starts_with("WRONGTYPE") => {
            StoreError::Corrupt("its key holds another kind of value".to_owned())
        }
        // A value of another type than a record's.
        ErrorKind::Parse | ErrorKind::NotFound => StoreError::Corrupt(error.details().to_owned()),
        ErrorKind::Cluster if error.is_moved() => {
            StoreError::Unavailable("the server is part of a cluster, set cluster_mode".to_owned())
        }
        _ if error.details().starts_with("ERR unknown command") => StoreError::Unavailable(format!(
            "Redis is too old or has a command taken away, 6.2 or later with GETEX is needed: {}",
            error.details()
        )),
        // OOM, NOREPLICAS, MISCONF, NOAUTH, NOPERM and what else a server may say.
        _ => StoreError::Unavailable(error.details().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_the_moment_are_tried_again_and_others_are_not() {
        for (kind, details, expected) in [
            (ErrorKind::Routing, NOWHERE, Failure::NotYet),
            (ErrorKind::Cluster, "CLUSTERDOWN The cluster is down", Failure::Broken),
            (ErrorKind::Cluster, "ASK 1 h:1", Failure::NotYet),
            (ErrorKind::Unknown, "LOADING Redis is loading the dataset in memory", Failure::Broken),
            (ErrorKind::Unknown, "READONLY You can't write against a read only replica.", Failure::Broken),
            (ErrorKind::IO, "Connection closed.", Failure::Broken),
            (ErrorKind::Canceled, "Canceled.", Failure::Broken),
            (ErrorKind::Unknown, "Too many failed write attempts.", Failure::Broken),
            (ErrorKind::Unknown, "channel closed", Failure::Broken),
            (ErrorKind::Timeout, "Request timed out.", Failure::Silent),
            (ErrorKind::Unknown, "OOM command not allowed when used memory > 'maxmemory'.", Failure::Final),
            (ErrorKind::Unknown, "NOREPLICAS Not enough good replicas to write.", Failure::Final),
            (ErrorKind::InvalidArgument, "WRONGTYPE Operation against a key", Failure::Final),
            (ErrorKind::Auth, "NOAUTH Authentication required.", Failure::Final),
        ] {
            assert_eq!(failure(&Error::new(kind, details), true), expected, "{details}");
        }
        let moved = Error::new(ErrorKind::Cluster, "MOVED 1 h:1");
        assert_eq!((failure(&moved, true), failure(&moved, false)), (Failure::NotYet, Failure::Final));
    }

    #[test]
    fn only_a_value_of_another_kind_is_corrupt() {
        let of = |kind, details| store_error(&Error::new(kind, details));
        assert!(matches!(of(ErrorKind::InvalidArgument, "WRONGTYPE x"), StoreError::Corrupt(_)));
        assert!(matches!(of(ErrorKind::Timeout, "Request timed out."), StoreError::Timeout));
        for details in ["OOM x", "NOREPLICAS x", "NOPERM x", "CLUSTERDOWN x", "MISCONF x"] {
            assert!(of(ErrorKind::Unknown, details).is_transient(), "{details}");
        }
        assert!(of(ErrorKind::IO, "broken pipe").is_transient());
    }
}
