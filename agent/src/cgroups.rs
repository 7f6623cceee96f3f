//! placeholder
/// A cgroup that could not be made, set or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct CgroupError {
    /// What was tried.
    pub action: &'static str,
    /// On which folder or file.
    pub path: std::path::PathBuf,
    /// The system's answer.
    #[source]
    pub source: std::io::Error,
}
