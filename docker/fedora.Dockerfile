# Images on Fedora, built from the project's root: docker/README.md has the commands. Never built.
#
#   build      what ./qap needs to build QEMU, and QEMU's source with the queue
#   emulators  the fork's programs, their libraries and firmware, and nothing else
#
# Fedora has no Debian archive: QEMU's source is the release's tarball, in the project's root.
# To pin the base, give its digest: --build-arg BASE=fedora@sha256:…
ARG BASE=fedora:43

FROM ${BASE} AS build
COPY configs/packages-fedora.txt /qap/configs/
RUN dnf install -y --setopt=install_weak_deps=False \
        $(sed -n 's/^[^#:][^:]*: //p' /qap/configs/packages-fedora.txt) && \
    dnf clean all -y && \
    rpm -qa | sort >/packages.txt
WORKDIR /qap
ARG SOURCE=qemu-10.0.13.tar.xz
COPY . .
RUN ./qap tree --source "${SOURCE}" && \
    rm -rf "${SOURCE}" /root/.cache/pip
CMD ["/bin/bash"]

FROM build AS programs
ARG PROFILE=lab
RUN --mount=type=cache,target=/root/.cache/ccache \
    ./qap build --profile "${PROFILE}" | docker/programs /out

FROM ${BASE} AS emulators
COPY --from=programs /out/ /
RUN dnf install -y --setopt=install_weak_deps=False $(cat /packages-of-programs.txt) && \
    dnf clean all -y && \
    rm -f /packages-of-programs.txt && \
    rpm -qa | sort >/packages.txt
CMD ["qemu-system-x86_64", "--version"]
