# Stands in for prom/prometheus and prom/alertmanager where no registry can be reached: Debian's binaries under the same names,
# with the same user, folders and entry points. The build context holds the binaries.
ARG BASE_IMAGE

FROM ${BASE_IMAGE} AS prometheus
COPY prometheus promtool /bin/
RUN mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534:65534
ENTRYPOINT ["/bin/prometheus"]

FROM ${BASE_IMAGE} AS alertmanager
COPY prometheus-alertmanager /bin/alertmanager
COPY amtool /bin/
COPY templates /usr/share/prometheus/alertmanager
RUN mkdir /alertmanager && chown 65534:65534 /alertmanager
USER 65534:65534
ENTRYPOINT ["/bin/alertmanager"]
