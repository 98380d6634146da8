# etcdctl with a shell, which etcd's own image lacks.
FROM quay.io/coreos/etcd:v3.5.33 AS etcd

FROM docker.io/library/debian:bookworm-slim
COPY --from=etcd /usr/local/bin/etcdctl /usr/local/bin/
USER 65532:65532
