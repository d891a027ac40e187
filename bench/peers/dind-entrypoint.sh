#!/bin/sh
# What the official image docker:dind does between the start of its container and dockerd: the steps of
# its entrypoint and of the script `dind` that the entrypoint calls, written anew from their documented
# behaviour. The image itself is not here: there is no registry to pull it from. dockerd is the same
# as everybody's in this benchmark.
#
# DOCKER_TLS_CERTDIR as for the image: certificates are made there and TCP is served with TLS; empty,
# TCP is served in plain. DOCKER_HOST with unix:// is where the socket is.
set -eu

socket=${DOCKER_HOST:-unix:///var/run/docker.sock}
days=825

key() {
    test -s "$1" || openssl genrsa -out "$1" 4096
}

names() {
    {
        ip -oneline address | awk '{ sub(/\/.*/, "", $4); print "IP:" $4 }'
        printf 'DNS:%s\n' "$(hostname)" docker localhost
    } | sort -u | paste -sd , -
}

# certificate WHO EXTENSION: a key and a certificate from our authority.
certificate() {
    folder=$certificates/$1
    mkdir -p "$folder"
    key "$folder/key.pem"
    openssl req -new -key "$folder/key.pem" -subj "/CN=docker:dind $1" -out "$folder/csr.pem"
    printf '[ x ]\n%s\n' "$2" >"$folder/openssl.cnf"
    openssl x509 -req -in "$folder/csr.pem" -days $days -out "$folder/cert.pem" \
        -CA "$certificates/ca/cert.pem" -CAkey "$certificates/ca/key.pem" -CAcreateserial \
        -extfile "$folder/openssl.cnf" -extensions x
    cp "$certificates/ca/cert.pem" "$folder/ca.pem"
    openssl verify -CAfile "$folder/ca.pem" "$folder/cert.pem"
}

certificates=${DOCKER_TLS_CERTDIR:-}
if [ -n "$certificates" ]; then
    mkdir -p "$certificates/ca"
    key "$certificates/ca/key.pem"
    openssl req -new -x509 -key "$certificates/ca/key.pem" -subj '/CN=docker:dind CA' -days $days \
        -out "$certificates/ca/cert.pem"
    certificate server "subjectAltName = $(names)"
    certificate client 'extendedKeyUsage = clientAuth'
    chmod 0644 "$certificates/client/key.pem"
    server=$certificates/server
    set -- --host=tcp://0.0.0.0:2376 --tlsverify --tlscacert "$server/ca.pem" \
        --tlscert "$server/cert.pem" --tlskey "$server/key.pem" "$@"
else
    set -- --host=tcp://0.0.0.0:2375 "$@"
fi

find /run /var/run -iname 'docker*.pid' -delete || true
iptables -nL >/dev/null 2>&1 || echo 'iptables does not work' >&2

# From here on it is the script `dind`.
export container=docker
if [ -d /sys/kernel/security ] && ! mountpoint -q /sys/kernel/security; then
    mount -t securityfs none /sys/kernel/security || echo 'no securityfs' >&2
fi
mountpoint -q /tmp || mount -t tmpfs none /tmp
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p /sys/fs/cgroup/init
    until
        xargs -rn1 </sys/fs/cgroup/cgroup.procs >/sys/fs/cgroup/init/cgroup.procs 2>/dev/null || true
        sed 's/ / +/g; s/^./+&/' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
    do
        :
    done
fi
mount --make-rshared /

set -- dockerd --host="$socket" "$@"
if command -v docker-init >/dev/null; then
    set -- docker-init -- "$@"
fi
exec "$@"
