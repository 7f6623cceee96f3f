//! What goes into each image.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::debian;
use crate::command;

/// Raised when the way an image is made changes.
const FORMAT: u32 = 1;

/// How an image is made.
#[derive(Debug)]
pub struct Recipe {
    /// Repository and tag.
    pub name: &'static str,
    packages: &'static [&'static str],
    files: &'static [(&'static str, u32, &'static str)],
    /// The run configuration: Cmd, Env, User…
    pub config: Value,
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    postgres:x:70:70:postgres:/var/lib/postgresql:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\npostgres:x:70:\nnogroup:x:65534:\n";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin";

const NGINX_CONF: &str = "daemon off; user www-data; error_log /dev/stderr; pid /run/nginx.pid; events {}\n\
    http { access_log /dev/stdout; server { listen 80; listen [::]:80; root /var/www/html; } }\n";

/// Makes the database on the first start, then becomes the server.
const POSTGRES_START: &str = "#!/bin/sh\nset -e\n\
    [ -s \"$PGDATA/PG_VERSION\" ] || initdb -D \"$PGDATA\" --auth=trust --no-sync --no-locale\n\
    exec postgres -D \"$PGDATA\" -c listen_addresses='*' -c unix_socket_directories=/tmp -c dynamic_shared_memory_type=mmap\n";

/// busybox, all its applets, a shell.
#[must_use]
pub fn busybox() -> Recipe {
    Recipe { name: "library/busybox:1", packages: &[], files: &[], config: json!({"Env": [PATH], "Cmd": ["sh"]}) }
}

/// nginx on port 80, serving /var/www/html.
#[must_use]
pub fn nginx() -> Recipe {
    Recipe {
        name: "library/nginx:1",
        packages: &["nginx"],
        files: &[
            ("etc/nginx/nginx.conf", 0o644, NGINX_CONF),
            ("var/www/html/index.html", 0o644, "<h1>Welcome to nginx!</h1>\n"),
        ],
        config: json!({"Env": [PATH], "Cmd": ["nginx"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}),
    }
}

/// redis on port 6379 without persistence.
#[must_use]
pub fn redis() -> Recipe {
    Recipe {
        name: "library/redis:1",
        packages: &["redis-server", "redis-tools"],
        files: &[],
        config: json!({"Env": [PATH], "User": "65534", "Entrypoint": ["redis-server"],
                       "Cmd": ["--protected-mode", "no", "--save", ""]}),
    }
}

/// PostgreSQL on port 5432, its data in `$PGDATA`.
#[must_use]
pub fn postgres() -> Recipe {
    Recipe {
        name: "library/postgres:15",
        packages: &["postgresql-15", "postgresql-client-15", "tzdata"],
        files: &[("usr/bin/start-postgres", 0o755, POSTGRES_START)],
        config: json!({"Env": [PATH, "PGDATA=/var/lib/postgresql/data/pg"], "User": "postgres",
                       "Cmd": ["start-postgres"], "StopSignal": "SIGINT"}),
    }
}

impl Recipe {
    /// Changes with everything that goes into the image, the versions of packages too.
    pub(super) fn digest(&self) -> Result<String> {
        let packages = debian::closure(self.packages)?;
        let busybox = fs::read("/bin/busybox").context("read /bin/busybox (Debian package busybox-static)")?;
        let mut hash = Sha256::new();
        hash.update(format!("{FORMAT} {} {:?} {:?} {}", self.name, packages, self.files, self.config));
        hash.update(PASSWD);
        hash.update(busybox);
        Ok(hex::encode(hash.finalize()))
    }

    /// Fills `rootfs` with the image's files.
    pub(super) fn fill(&self, rootfs: &Path, cache: &Path) -> Result<()> {
        for folder in
            ["bin", "etc", "proc", "sys", "dev", "root", "run", "usr/bin", "usr/sbin", "var/lib/nginx", "var/log/nginx"]
        {
            fs::create_dir_all(rootfs.join(folder))?;
        }
        if !self.packages.is_empty() {
            debian::unpack(&debian::closure(self.packages)?, cache, rootfs)?;
        }
        for folder in ["tmp", "var/lib/postgresql/data"] {
            fs::create_dir_all(rootfs.join(folder))?;
            fs::set_permissions(rootfs.join(folder), Permissions::from_mode(0o1777))?;
        }
        add_busybox(rootfs)?;
        fs::write(rootfs.join("etc/passwd"), PASSWD)?;
        fs::write(rootfs.join("etc/group"), GROUP)?;
        for (path, mode, text) in self.files {
            let path = rootfs.join(path);
            fs::create_dir_all(path.parent().context("a file in a folder")?)?;
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(*mode))?;
        }
        Ok(())
    }
}

/// busybox, and a link for each applet that no package brought.
fn add_busybox(rootfs: &Path) -> Result<()> {
    fs::copy("/bin/busybox", rootfs.join("bin/busybox")).context("Debian package busybox-static")?;
    for applet in command::run("/bin/busybox", ["--list"])?.lines() {
        let taken =
            ["bin", "usr/bin", "usr/sbin"].iter().any(|dir| rootfs.join(dir).join(applet).symlink_metadata().is_ok());
        if !taken {
            symlink("busybox", rootfs.join("bin").join(applet))?;
        }
    }
    Ok(())
}
