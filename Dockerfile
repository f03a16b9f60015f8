# docker build -t skyfix .                                   CPU
# docker build -t skyfix:gpu --build-arg EXTRA=gpu .         NVIDIA GPU
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
# Extra words for every pip call: another index, --proxy, --cert.
ARG PIP_OPTIONS=""

FROM ${BASE_IMAGE} AS python
# rasterio's wheels load the system's libexpat, which slim Python images lack.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 libexpat1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb

FROM python AS builder
ARG PIP_OPTIONS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY pyproject.toml constraints.txt LICENSE ./
# setuptools builds here, not isolated: an isolated build ignores the constraints and --cert.
# An empty README.md: pyproject.toml wants one, and editing the real one must change no layer.
RUN touch README.md \
    && apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && python3 -m venv /opt/skyfix \
    && /opt/skyfix/bin/pip install ${PIP_OPTIONS} --constraint constraints.txt setuptools

# What Skyfix needs, without Skyfix: this layer of gigabytes outlives every change of the code.
FROM builder AS dependencies
# Extras of pyproject.toml: cpu or gpu (which FAISS wheel), and more: "cpu,milvus".
ARG EXTRA=cpu
ARG PIP_OPTIONS
RUN /opt/skyfix/bin/pip install ${PIP_OPTIONS} --no-build-isolation \
        --constraint constraints.txt ".[${EXTRA}]" \
    && /opt/skyfix/bin/pip uninstall --yes skyfix pip

# Skyfix alone, laid out to be copied over the environment.
FROM builder AS package
ARG PIP_OPTIONS
COPY model model
COPY service service
COPY training training
RUN /opt/skyfix/bin/pip install ${PIP_OPTIONS} --no-build-isolation --no-deps --prefix /package .

FROM python
RUN groupadd --gid 10001 skyfix \
    && useradd --uid 10001 --gid skyfix --no-create-home --home-dir /tmp skyfix \
    && install --directory --owner skyfix --group skyfix /data
COPY --from=dependencies /opt/skyfix /opt/skyfix
COPY --from=package /package /opt/skyfix
# The root may be read-only: numba keeps what it compiles (skyfix-train synth) in /tmp.
ENV PATH=/opt/skyfix/bin:$PATH SKYFIX_HOME=/data NUMBA_CACHE_DIR=/tmp/numba
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-c", \
    "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=4); c.request('GET', '/livez'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["skyfix"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000"]
