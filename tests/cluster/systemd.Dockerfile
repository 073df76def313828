# A machine for tests of the units in deploy/systemd: systemd is its first process, and oatmill is in /opt/oatmill.
ARG IMAGE
FROM ${IMAGE}
USER 0
RUN apt-get update && apt-get install --yes --no-install-recommends systemd systemd-sysv
STOPSIGNAL SIGRTMIN+3
# systemd writes to its own part of the control groups, which the engine mounts read-only.
ENTRYPOINT ["/bin/sh", "-c", "for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd; do mount -o remount,bind,rw $hierarchy; done; exec /sbin/init"]
CMD []
