//! The process of a container, and those that exec starts.

use oci_spec::runtime::{LinuxCapabilities, Process, ProcessBuilder, Spec, User as OciUser, UserBuilder};
use orlop_proto::v1;

use super::Inputs;
use super::user::User;
use crate::error::{Context, Error, Result};

/// For an image that sets no PATH.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn container_process(
    inputs: &Inputs<'_>,
    security: &v1::LinuxContainerSecurityContext,
    user: &User,
    capabilities: LinuxCapabilities,
) -> Result<Process> {
    let config = inputs.config;
    let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
    let oom_score_adj = resources.map_or(0, |resources| resources.oom_score_adj);
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(oci_user(user)?)
        .args(args(config, inputs)?)
        .env(env(inputs, user))
        .cwd(cwd(config, inputs)?)
        .capabilities(capabilities)
        .no_new_privileges(security.no_new_privs)
        .oom_score_adj(inputs.host.oom_score_adj(oom_score_adj))
        .build()
        .step(|| "make the OCI spec: process".to_owned())?;
    // The limits of the daemon are inherited: the protocol has none.
    process.set_rlimits(None);
    process.set_apparmor_profile(apparmor(security, inputs));
    Ok(process)
}

/// What a pod's spec says of command and args (Kubernetes, "Define a Command and Arguments for a Container").
fn args(config: &v1::ContainerConfig, inputs: &Inputs<'_>) -> Result<Vec<String>> {
    let image = inputs.image;
    let mut args = if config.command.is_empty() { image.entrypoint.clone() } else { config.command.clone() };
    if !config.args.is_empty() {
        args.extend(config.args.iter().cloned());
    } else if config.command.is_empty() {
        args.extend(image.cmd.iter().cloned());
    }
    if args.is_empty() {
        return Err(Error::invalid("no command: neither the container's config nor its image has one"));
    }
    Ok(args)
}

/// The image's variables, those of the container over them, and what a process expects besides.
fn env(inputs: &Inputs<'_>, user: &User) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |name: &str, entry: String, replace: bool| {
        let same = |old: &String| old.split_once('=').is_some_and(|(key, _)| key == name);
        match env.iter_mut().find(|old| same(old)) {
            Some(old) if replace => *old = entry,
            Some(_) => {}
            None => env.push(entry),
        }
    };
    for entry in &inputs.image.env {
        // A line without a name cannot be a variable; the image is not trusted to have none.
        if let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) {
            set(name, entry.clone(), true);
        }
    }
    for pair in &inputs.config.envs {
        set(&pair.key, format!("{}={}", pair.key, pair.value), true);
    }
    set("PATH", DEFAULT_PATH.to_owned(), false);
    set("HOSTNAME", format!("HOSTNAME={}", inputs.sandbox.hostname()), false);
    if let Some(home) = &user.home {
        set("HOME", format!("HOME={home}"), false);
    }
    if inputs.config.tty {
        set("TERM", "TERM=xterm".to_owned(), false);
    }
    env
}

fn cwd(config: &v1::ContainerConfig, inputs: &Inputs<'_>) -> Result<String> {
    let cwd = [config.working_dir.as_str(), inputs.image.working_dir.as_str(), "/"]
        .into_iter()
        .find(|path| !path.is_empty())
        .unwrap_or("/");
    if !cwd.starts_with('/') {
        return Err(Error::invalid(format!("the working directory {cwd:?} is not absolute")));
    }
    Ok(cwd.to_owned())
}

fn oci_user(user: &User) -> Result<OciUser> {
    UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.groups.clone())
        .build()
        .step(|| "make the OCI spec: user".to_owned())
}

/// A profile by name; the host's default profile is not ours to load.
fn apparmor(security: &v1::LinuxContainerSecurityContext, inputs: &Inputs<'_>) -> Option<String> {
    let profile = security.apparmor.as_ref()?;
    let localhost = profile.profile_type() == v1::security_profile::ProfileType::Localhost;
    (localhost && inputs.host.apparmor).then(|| profile.localhost_ref.clone())
}

/// A process for exec: the container's own, with another command.
pub(crate) fn exec_process(spec: &Spec, command: Vec<String>, tty: bool) -> Result<Process> {
    let mut process =
        spec.process().clone().ok_or_else(|| Error::internal("the container's config.json has no process"))?;
    if command.is_empty() {
        return Err(Error::invalid("no command to execute"));
    }
    process.set_args(Some(command));
    process.set_terminal(Some(tty));
    if tty && !process.env().iter().flatten().any(|entry| entry.starts_with("TERM=")) {
        let mut env = process.env().clone().unwrap_or_default();
        env.push("TERM=xterm".to_owned());
        process.set_env(Some(env));
    }
    Ok(process)
}
