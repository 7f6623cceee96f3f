#!/usr/bin/env bash
# The demo: a private orlop node on this machine, two pods of examples/hello.yaml, their page. Called by `make demo`.
#   demo.sh run    until Ctrl-C (with DEMO_ONCE=1: until the page was fetched; exit 0 only if it was right)
#   demo.sh stop   ends a demo that runs elsewhere, and removes what is left of one that was killed
set -euo pipefail
cd "$(dirname "$0")/.."

BIN=$(realpath "${BIN:?the folder with the programs; use make demo}")
DIR=${DEMO_DIR:-/var/tmp/orlop-demo}
CONFIG=$DIR/config.toml
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
orlop() { "$BIN/orlop" --config "$CONFIG" "$@"; }

stop() {
    [ -f "$CONFIG" ] || { echo "no demo is there"; return 0; }
    if [ -f "$DIR/pid" ] && [ "$(cat "/proc/$(cat "$DIR/pid")/comm" 2>/dev/null)" = orlop ]; then
        kill "$(cat "$DIR/pid")" && tail --pid="$(cat "$DIR/pid")" -f /dev/null
    fi
    orlop reset --yes
    rm -rf "$DIR"
}

configure() {
    install -d -m 0700 "$DIR"
    cat >"$CONFIG" <<TOML
# A node of its own beside whatever else this machine runs.
state = "$DIR/state"
run = "$DIR/run"

[node]
name = "demo"
ip = "127.0.0.1"
cgroup-root = "/orlop-demo"
log-dir = "$DIR/log"

[control-plane]
listen = "127.0.0.1:16443"

[agent]
listen = "127.0.0.1:11250"

[network]
pod-cidr = "10.111.0.0/24"
bridge = "orlop-demo"
nft-table = "orlop-demo"
TOML
}

# The image: one layer with one static program, as `docker save` writes it.
image() {
    local work; work=$(mktemp -d "$DIR/image.XXXX")
    mkdir "$work/rootfs" && install -m 0755 "$HELLO" "$work/rootfs/hello"
    tar -C "$work/rootfs" --owner=0 --group=0 --sort=name --mtime=@0 -cf "$work/layer.tar" hello
    local diff; diff=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
    printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/hello"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$diff" >"$work/config.json"
    printf '[{"Config":"config.json","RepoTags":["example.com/orlop/hello:demo"],"Layers":["layer.tar"]}]' >"$work/manifest.json"
    tar -C "$work" -cf "$DIR/hello.tar" manifest.json config.json layer.tar
    rm -rf "$work"
}

kubectl_program() {
    command -v kubectl || { dist/apt-install kubernetes-client:kubectl >&2 && command -v kubectl; }
}

run() {
    [ "$(id -u)" = 0 ] || { echo "the demo makes namespaces and cgroups: run it as root" >&2; exit 1; }
    [ ! -e "$CONFIG" ] || { say "A demo was here before; removing what is left of it"; stop; }
    local kubectl; kubectl=$(kubectl_program)
    configure && image
    trap 'say "Stopping"; stop; echo "Nothing is left behind."' EXIT
    trap 'exit 130' INT TERM

    say "Starting orlop: control plane, agent and CRI daemon in one process"
    # Not the function: the pid must be the program's, not a subshell's.
    "$BIN/orlop" --config "$CONFIG" up >"$DIR/orlop.log" 2>&1 &
    local node=$!
    echo "$node" >"$DIR/pid"
    export KUBECONFIG=$DIR/state/admin.kubeconfig
    orlop status --wait 60 || { tail -n 30 "$DIR/orlop.log" >&2; exit 1; }
    "$kubectl" get nodes -o wide
    orlop image import "$DIR/hello.tar"

    say "kubectl apply -f examples/hello.yaml"
    "$kubectl" apply -f examples/hello.yaml
    "$kubectl" rollout status deployment/hello --timeout=60s
    "$kubectl" get pods -o wide

    local ip page wrong=0
    for ip in $("$kubectl" get pods -l app=hello -o 'jsonpath={.items[*].status.podIP}'); do
        say "http://$ip:8080/"
        page=$(exec 3<>"/dev/tcp/$ip/8080"; printf 'GET / HTTP/1.0\r\n\r\n' >&3; cat <&3)
        echo "$page"
        grep -q 'Hello from the orlop deck' <<<"$page" || wrong=1
    done
    [ -n "${ip:-}" ] && [ "$wrong" = 0 ] || { echo "the page is not what examples/hello.yaml says" >&2; exit 1; }
    [ -z "${DEMO_ONCE:-}" ] || exit 0

    say "It is yours. In another terminal:"
    # Nor cat here, nor for the pid: bash forgets a Ctrl-C that comes while a program which then ends well is in the foreground.
    echo "\
  export KUBECONFIG=$KUBECONFIG
  kubectl get pods -o wide
  kubectl logs -f deployment/hello
  kubectl scale deployment/hello --replicas=10
  crictl --runtime-endpoint unix://$DIR/run/cri.sock ps
Ctrl-C here, or make demo-stop, ends it and removes everything."
    wait "$node"
}

case "${1:-}" in
    run | stop) "$1" ;;
    *) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
