//! What `--help` and the man page of each verb say after its options: exit codes, and an example.

/// The exit codes of verbs that only do something.
macro_rules! simple {
    ($example:literal) => {
        concat!(
            "Exit codes: 0 when it is done; 1 for an error, which is told on standard error and in the file of --log.\n\n",
            "Example:\n",
            $example
        )
    };
}

/// The exit codes of verbs that may wait for the end of the container.
macro_rules! waiting {
    ($example:literal) => {
        concat!(
            "Exit codes: that of the container's program, or 128 and the number of the signal that ended it; with \
             --detach 0 when it runs; 1 for an error, which is told on standard error and in the file of --log.\n\n",
            "Example:\n",
            $example
        )
    };
}

pub(super) const CREATE: &str = simple!("  orlop-runtime create --bundle /srv/web --pid-file /run/web.pid web");
pub(super) const START: &str = simple!("  orlop-runtime start web");
pub(super) const STATE: &str = simple!("  orlop-runtime state web | jq -r .status");
pub(super) const KILL: &str =
    simple!("  orlop-runtime kill web           # SIGTERM\n  orlop-runtime kill --all web KILL");
pub(super) const DELETE: &str = simple!("  orlop-runtime delete --force web");
pub(super) const RUN: &str =
    waiting!("  orlop-runtime spec --bundle /srv/web\n  orlop-runtime run --bundle /srv/web web");
pub(super) const EXEC: &str = concat!(
    "Exit codes: that of the program, or 128 and the number of the signal that ended it; with --detach 0 when it \
     runs; 255 for an error, which is told on standard error and in the file of --log; 1 for wrong arguments.\n\n",
    "Examples:\n",
    "  orlop-runtime exec --tty web sh\n",
    "  orlop-runtime exec --user 1000:1000 --env MODE=test web id"
);
pub(super) const LIST: &str = simple!(
    "  orlop-runtime list\n  orlop-runtime list --format json | jq -r '.[] | select(.status == \"running\").id'"
);
pub(super) const PS: &str = simple!("  orlop-runtime ps web -o pid,rss,args");
pub(super) const PAUSE: &str = simple!("  orlop-runtime pause web");
pub(super) const RESUME: &str = simple!("  orlop-runtime resume web");
pub(super) const UPDATE: &str = simple!(
    "  orlop-runtime update --memory 512M --pids-limit 200 web\n  \
     echo '{\"memory\": {\"limit\": 536870912}}' | orlop-runtime update --resources - web"
);
pub(super) const EVENTS: &str = simple!("  orlop-runtime events --stats web | jq .data.memory.usage.usage");
pub(super) const SPEC: &str = simple!("  orlop-runtime spec --bundle /srv/web");
pub(super) const FEATURES: &str = simple!("  orlop-runtime features | jq -r '.linux.capabilities[]'");
pub(super) const CHECKPOINT: &str = concat!(
    "It needs the program criu, of the package of that name, in a version that knows the kernel: `criu check` says \
     so. What it complains about is in dump.log, in the folder of --work-path or --image-path. The files are as runc \
     has them.\n\n",
    simple!("  orlop-runtime checkpoint --image-path /srv/web-files web")
);
pub(super) const RESTORE: &str = concat!(
    "It needs the bundle and the files of `checkpoint`, and criu as that does; its log is restore.log. Pipes and files \
     of the host that were the standard descriptors are those of this program now.\n\n",
    waiting!("  orlop-runtime restore --detach --bundle /srv/web --image-path /srv/web-files web")
);
