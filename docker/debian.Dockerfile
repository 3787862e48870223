# Images on Debian, built from the project's root: docker/README.md has the commands.
#
#   build      what ./qap needs: Debian's packages and the Python environment
#   ci         and what it has fetched and built: ./qap test runs without a network
#   emulators  the fork's programs, their libraries and firmware, and nothing else
#
# To pin the base, give its digest: --build-arg BASE=debian@sha256:…
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
# An archive of snapshots, and a time such as 20261128T000000Z: then all packages, and what ./qap
# fetches, are those that it has of that time.
ARG SNAPSHOTS=
ARG SNAPSHOT=
COPY configs/packages.txt /qap/configs/
RUN export DEBIAN_FRONTEND=noninteractive && \
    if [ -n "${SNAPSHOT}" ]; then \
        find /etc/apt -name '*.list' -o -name '*.sources' | xargs sed -Ei \
            "s,https?://[^ ]*/(debian(-security)?)/?( |$),${SNAPSHOTS}/\1/${SNAPSHOT}/\3," && \
        echo 'Acquire::Check-Valid-Until "false";' >/etc/apt/apt.conf.d/80-snapshot; \
    fi && \
    apt-get update && \
    apt-get install --no-install-recommends -y ca-certificates \
        $(sed -n 's/^[^#:][^:]*: //p' /qap/configs/packages.txt) && \
    apt-get clean && \
    rm -rf /var/lib/apt/lists/* && \
    dpkg-query --showformat '${Package}_${Version}_${Architecture}\n' --show >/packages.txt
WORKDIR /qap
COPY . .
RUN ./qap --help >/dev/null && \
    rm -rf /root/.cache/pip
CMD ["/bin/bash"]

FROM build AS ci
# ./qap takes the mirror from apt's lists.
RUN apt-get update && \
    ./qap fetch && \
    ./qap tree && \
    rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/ccache \
    ./qap build --base && \
    ./qap build
CMD ["./qap", "test"]

FROM build AS programs
ARG PROFILE=lab
RUN apt-get update && \
    ./qap tree && \
    rm -rf /var/lib/apt/lists/*
RUN --mount=type=cache,target=/root/.cache/ccache \
    ./qap build --profile "${PROFILE}" | docker/programs /out

FROM ${BASE} AS emulators
COPY --from=programs /out/ /
RUN export DEBIAN_FRONTEND=noninteractive && \
    apt-get update && \
    apt-get install --no-install-recommends -y $(cat /packages-of-programs.txt) && \
    apt-get clean && \
    rm -rf /var/lib/apt/lists/* /packages-of-programs.txt && \
    dpkg-query --showformat '${Package}_${Version}_${Architecture}\n' --show >/packages.txt
CMD ["qemu-system-x86_64", "--version"]
