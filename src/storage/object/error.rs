//! What an error of the library means for us.

use crate::error::ErrorKind;

pub(super) fn is_refused_create(error: &opendal::Error) -> bool {
    matches!(
        error.kind(),
        opendal::ErrorKind::ConditionNotMatch
            | opendal::ErrorKind::AlreadyExists
            | opendal::ErrorKind::Conflict
    )
}

pub(super) fn error_kind(error: &opendal::Error) -> ErrorKind {
    use opendal::ErrorKind as Theirs;
    // the library has no kind for a full or too small store; services name it in their error body
    let text = error.message();
    let full = ["StorageFull", "QuotaExceeded", "EntityTooLarge", "status: 507"];
    if full.iter().any(|name| text.contains(name)) {
        return ErrorKind::Exhausted;
    }
    #[expect(clippy::wildcard_enum_match_arm, reason = "the list of the library is open")]
    match error.kind() {
        Theirs::NotFound => ErrorKind::NotFound,
        Theirs::PermissionDenied => ErrorKind::Denied,
        Theirs::ConditionNotMatch | Theirs::AlreadyExists | Theirs::Conflict => ErrorKind::Conflict,
        Theirs::ConfigInvalid => ErrorKind::Config,
        Theirs::Unsupported => ErrorKind::Unsupported,
        Theirs::RateLimited => ErrorKind::Unreachable,
        _ if error.is_temporary() => ErrorKind::Unreachable,
        _ => ErrorKind::Failed,
    }
}

pub(super) fn hint(kind: ErrorKind) -> Option<&'static str> {
    [
        (ErrorKind::Denied, "check access_key and secret_key, and what they may do in the bucket"),
        (ErrorKind::NotFound, "check bucket and endpoint"),
        (ErrorKind::Unreachable, "check endpoint, network and that the service runs"),
        (ErrorKind::Exhausted, "free space in the store, raise its quota, or shorten the retention"),
    ]
    .into_iter()
    .find_map(|(k, hint)| (k == kind).then_some(hint))
}
