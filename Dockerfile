# A worker: `docker build -t penstock .`, then `docker run penstock run topologies/flights.yaml --brokers ...`.
# The first stage builds, the second has Python, the installed packages and the files that a worker reads; nothing to build with.

FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
# For the native part, which is optional; nothing of the compiler is in the second stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
RUN python -m venv /opt/penstock
# Only files with a known hash are installed. setuptools is among them because it builds the package itself, without an index.
COPY requirements/image.txt requirements/
RUN /opt/penstock/bin/pip install --no-cache-dir --no-compile --require-hashes -r requirements/image.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY app app
RUN /opt/penstock/bin/pip install --no-cache-dir --no-compile --no-index --no-deps --no-build-isolation . \
 && /opt/penstock/bin/pip uninstall --yes pip setuptools

FROM python:3.12.11-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin penstock
COPY --from=build /opt/penstock /opt/penstock
WORKDIR /srv/penstock
COPY topologies topologies
COPY schemas schemas
COPY models models
# Runs on a read-only root: nothing is written but under /tmp, and Faust is told to make its folder there too.
ENV PATH=/opt/penstock/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 APP_DATADIR=/tmp/faust \
    PENSTOCK_CACHE=/tmp/penstock-cache
USER 10001
# A worker serves no port. It exits when it cannot go on, and the restart policy of whoever runs it is the cure.
HEALTHCHECK NONE
ENTRYPOINT ["penstock"]
CMD ["--help"]
