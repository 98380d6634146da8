#!/bin/sh
# Users and roles that fence teams off in etcd, as docs/guide.md says. It may run again, for a new
# team or a new password.
#
#   TEAMS                    names of namespaces, separated by spaces
#   ETCDCTL_ENDPOINTS        as etcdctl reads it
#   PASSWORDS                a folder, by default /etc/dynamo-etcd, with a file for each password:
#                            root, frontend-TEAM and worker-TEAM
set -eu

passwords=${PASSWORDS:-/etc/dynamo-etcd}
export ETCDCTL_API=3

# Until authentication is enabled, everybody may ask, and a user is not needed.
if etcdctl user list >/dev/null 2>&1; then
    etcd() { etcdctl "$@"; }
else
    etcd() { etcdctl --user "root:$(cat "$passwords/root")" "$@"; }
fi

# user NAME FILE: the user exists, with this password.
user() {
    if etcd user get "$1" >/dev/null 2>&1; then
        etcd user passwd "$1" --interactive=false <"$2"
    else
        etcd user add "$1" --interactive=false <"$2"
    fi
}

# role NAME PERMISSION PREFIX: the role exists, with this permission.
role() {
    etcd role get "$1" >/dev/null 2>&1 || etcd role add "$1"
    etcd role grant-permission "$1" "$2" "$3" --prefix
}

user root "$passwords/root"
etcd user grant-role root root
for team in $TEAMS; do
    role "$team-frontend" read "models/$team/"
    role "$team-worker" readwrite "models/$team/"
    user "frontend-$team" "$passwords/frontend-$team"
    user "worker-$team" "$passwords/worker-$team"
    etcd user grant-role "frontend-$team" "$team-frontend"
    etcd user grant-role "worker-$team" "$team-worker"
done
# From here on, etcd asks for a user. Programs without one go on until they connect again.
etcd auth enable
