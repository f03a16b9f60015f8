# docker build --target cpu --tag skyfix:cpu .         cpu is the default
# docker build --target gpu --tag skyfix:gpu .         for an NVIDIA GPU
# Pinned; docs/how-to/deploy.md says how to change it.
ARG BASE_IMAGE=debian:bookworm-20261005-slim
# Extra options of every pip call, such as --index-url, --proxy or --cert.
ARG PIP_OPTIONS=""

FROM ${BASE_IMAGE} AS python
# rasterio's wheels need the system's libexpat.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 libexpat1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb

FROM python AS builder
ARG PIP_OPTIONS
# No build isolation: an isolated build would ignore constraints.txt and --cert.
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    INSTALL="/opt/skyfix/bin/pip install ${PIP_OPTIONS} --no-build-isolation --constraint constraints.txt"
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
# pyproject.toml needs a README.md. An empty file keeps the layers when the real one is edited.
RUN touch README.md \
    && apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /opt/skyfix \
    && ${INSTALL} setuptools

# The dependencies: gigabytes, in a layer that code changes do not touch.
FROM builder AS dependencies
RUN ${INSTALL} .

# Skyfix alone, in a folder to copy over the environment.
FROM builder AS package
COPY model model
COPY service service
COPY training training
RUN ${INSTALL} --no-deps --prefix /package .

# The image without its packages.
FROM python AS runtime
RUN groupadd --gid 10001 skyfix \
    && useradd --uid 10001 --gid skyfix --no-create-home --home-dir /tmp skyfix \
    && install --directory --owner skyfix --group skyfix /data
# The root file system may be read-only, so numba (skyfix-train synth) compiles to /tmp.
ENV PATH=/opt/skyfix/bin:$PATH SKYFIX_HOME=/data NUMBA_CACHE_DIR=/tmp/numba
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-c", \
    "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["skyfix"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]

# The targets. EXTRA names extras of pyproject.toml: cpu or gpu, and others, as in "cpu,milvus".
FROM dependencies AS packages-gpu
ARG EXTRA=gpu
RUN ${INSTALL} ".[${EXTRA}]" && /opt/skyfix/bin/pip uninstall --yes skyfix pip

FROM runtime AS gpu
COPY --from=packages-gpu /opt/skyfix /opt/skyfix
COPY --from=package /package /opt/skyfix

FROM dependencies AS packages-cpu
ARG EXTRA=cpu
RUN ${INSTALL} ".[${EXTRA}]" && /opt/skyfix/bin/pip uninstall --yes skyfix pip

FROM runtime AS cpu
COPY --from=packages-cpu /opt/skyfix /opt/skyfix
COPY --from=package /package /opt/skyfix
