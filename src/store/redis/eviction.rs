//! What the server does when its memory is full, told once at start: no default of Redis is right for conversations.

use fred::interfaces::ClientLike as _;
use fred::types::InfoKind;
use fred::types::config::Options;
use std::sync::Arc;
use std::time::Duration;

use super::link::Link;

/// How long a server may take to tell.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks these servers, and warns of what it finds.
pub(super) async fn warn_of_full_memory(links: Vec<Arc<Link>>) {
    let mut told = Vec::new();
    for link in links {
        let options = Options { timeout: Some(PATIENCE), max_attempts: Some(1), ..Options::default() };
        let info: Result<String, _> = link.with(&options).info(Some(InfoKind::Memory)).await;
        match info {
            Ok(info) => match warning(&info) {
                Some(warning) if !told.contains(&warning) => told.push(warning),
                _ => {}
            },
            // A managed service or an ACL may not allow INFO.
            Err(error) => tracing::debug!(%error, "RedisStore: maxmemory-policy is not known"),
        }
    }
    for warning in told {
        tracing::warn!("RedisStore: {warning}");
    }
}

fn warning(info: &str) -> Option<String> {
    let field = |name: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
    let policy = field("maxmemory_policy")?;
    let bounded = field("maxmemory").is_some_and(|bytes| bytes != "0");
    if policy != "noeviction" {
        return Some(format!(
            "maxmemory-policy is {policy}: when its memory is full, Redis removes responses before their time, in the \
             middle of conversations too, which then cannot be continued; noeviction keeps what was acknowledged"
        ));
    }
    bounded.then(|| {
        "maxmemory is set and maxmemory-policy is noeviction: when its memory is full, Redis refuses new responses until \
         others expire, and requests that store one fail; watch used_memory"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(maxmemory: &str, policy: &str) -> String {
        format!(
            "# Memory\r\nused_memory:1\r\nmaxmemory:{maxmemory}\r\nmaxmemory_human:0B\r\nmaxmemory_policy:{policy}\r\n"
        )
    }

    #[test]
    fn only_memory_without_bound_and_without_eviction_goes_without_warning() {
        assert_eq!(warning(&info("0", "noeviction")), None);
        assert!(warning(&info("1000", "noeviction")).unwrap().contains("refuses new responses"));
        for policy in ["allkeys-lru", "volatile-ttl"] {
            assert!(warning(&info("0", policy)).unwrap().contains(policy));
            assert!(warning(&info("1000", policy)).unwrap().contains("removes responses"));
        }
        assert_eq!(warning("# Memory\r\n"), None);
    }
}
