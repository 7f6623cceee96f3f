//! What on a host keeps users from user namespaces: said when one could not be had.

use std::path::Path;

use nix::errno::Errno;

use crate::error::Failure;

/// Adds to a failure what may have caused it.
pub(crate) fn hinder(failure: Failure) -> Failure {
    match reason(Path::new("/proc/sys"), failure.errno) {
        Some(reason) if failure.note.is_empty() => failure.note(reason),
        Some(reason) => {
            let note = format!("{}; {reason}", failure.note);
            failure.note(note)
        }
        None => failure,
    }
}

fn reason(sysctls: &Path, errno: i32) -> Option<String> {
    let is = |name: &str, value: &str| {
        let path = sysctls.join(name.replace('.', "/"));
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
    };
    let set = |name: &str, value: &str| Some(format!("this host forbids it: set the kernel parameter {name}={value}"));
    let denied = errno == Errno::EPERM as i32 || errno == Errno::EACCES as i32;
    if errno == Errno::ENOSPC as i32 || errno == Errno::EUSERS as i32 {
        if is("user.max_user_namespaces", "0") {
            return set("user.max_user_namespaces", "15000");
        }
        return Some(
            "too many user namespaces: more than user.max_user_namespaces allows the user, or nested more than 32 deep"
                .to_owned(),
        );
    }
    if denied && is("kernel.unprivileged_userns_clone", "0") {
        return set("kernel.unprivileged_userns_clone", "1");
    }
    if denied && is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        return Some(
            "AppArmor restricts user namespaces of ordinary users: load a profile with `userns,` for this program, or \
             set the kernel parameter kernel.apparmor_restrict_unprivileged_userns=0"
                .to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        for (name, value) in [
            ("user/max_user_namespaces", "0\n"),
            ("kernel/unprivileged_userns_clone", "0\n"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1\n"),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
            std::fs::write(path, value).expect("parameter");
        }
        let reason = |errno: Errno| reason(folder.path(), errno as i32).unwrap_or_default();
        assert!(reason(Errno::ENOSPC).contains("user.max_user_namespaces="));
        assert!(reason(Errno::EPERM).contains("kernel.unprivileged_userns_clone=1"));
        assert_eq!(reason(Errno::ENOENT), "");
        std::fs::write(folder.path().join("kernel/unprivileged_userns_clone"), "1").expect("parameter");
        assert!(reason(Errno::EACCES).contains("AppArmor"));
        std::fs::write(folder.path().join("user/max_user_namespaces"), "100").expect("parameter");
        assert!(reason(Errno::ENOSPC).contains("32 deep"));
    }
}
