# A node in a container:
#
#   docker build -t codio-dht .
#   docker run -d --name dht -p 4001:4001/tcp -p 4001:4001/udp -v dht:/data codio-dht
#   docker exec dht codio-dht stats
#
# The identity key and everything that must survive a restart are in /data.
#
# BASE is any Debian or Ubuntu image with Python 3.11 or newer.
ARG BASE=python:3.13-slim

# --- build: compiler and headers stay behind in this stage
FROM ${BASE} AS build
WORKDIR /app
# The dependencies change rarely: a layer of their own, made from what they are decided by.
COPY LICENSE-* README.md pyproject.toml ./
COPY requirements requirements
COPY scripts/setup scripts/setup
COPY codio_dht/__init__.py codio_dht/__init__.py
RUN scripts/setup

# --- the image
FROM ${BASE}
RUN useradd --system --uid 4001 --home-dir /data --shell /usr/sbin/nologin codio-dht \
    && install -d -o codio-dht -g codio-dht -m 0700 /data
COPY --from=build /app/.venv /app/.venv
COPY LICENSE-* /app/
COPY codio_dht /app/codio_dht
# Compiled here once: the user that runs it may not write here. And a check that all is there.
RUN /app/.venv/bin/python -m compileall -q /app/codio_dht \
    && ln -s /app/.venv/bin/codio-dht /usr/local/bin/codio-dht \
    && codio-dht --version

USER codio-dht
WORKDIR /data
VOLUME /data
EXPOSE 4001/tcp 4001/udp
ENV CODIO_DHT_DATA=/data \
    PYTHONUNBUFFERED=1
# The daemon answers on its control socket, not only exists. Setting up may take the first minute.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["codio-dht", "id"]
ENTRYPOINT ["codio-dht"]
CMD ["daemon", "--bootstrap", "default"]
