# The image of the daemon, of its BGP speaker sidecar and of the init container: one image, pinned once.
# Debian packages come from lab/packages, Python packages from requirements.lock, as everywhere in this project.
FROM docker.io/library/debian:bookworm-20250520-slim AS base
COPY lab/packages deploy/packages-of /usr/local/share/

FROM base AS build
RUN apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(/usr/local/share/packages-of build)
COPY requirements.lock pyproject.toml README.md /source/
COPY src /source/src
# As constraints the lock fixes every version, and what only development needs is left out.
RUN python3 -m venv /opt/kube-router \
 && PIP_CONSTRAINT=/source/requirements.lock /opt/kube-router/bin/pip install --no-cache-dir '/source[aws]' \
 && /opt/kube-router/bin/pip uninstall -q -y setuptools pip

FROM base
RUN apt-get update -q \
 && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $(/usr/local/share/packages-of image) $(/usr/local/share/packages-of runtime) \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf
COPY --from=build /opt/kube-router /opt/kube-router
COPY deploy/install-cni deploy/gobgpd-sidecar /usr/local/bin/
ENV PATH=/opt/kube-router/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/opt/kube-router/bin/kube-router"]
