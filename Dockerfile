# Leveret in a container. Messages live in the volume; a broker that is killed loses nothing it confirmed.
#
#   docker build -t leveret .
#   docker run -p 5672:5672 -p 15672:15672 -v leveret:/var/lib/leveret --stop-timeout 40 leveret
#
# The stop timeout leaves the broker its shutdown grace (30 s); Docker's own 10 s only cut the goodbye short.

FROM python:3.11-slim AS build
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/leveret
RUN /opt/leveret/bin/python -m pip install --no-cache-dir --constraint constraints.txt --upgrade pip
COPY . ./
RUN /opt/leveret/bin/python -m pip install --no-cache-dir --constraint constraints.txt --build-constraint constraints.txt .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin leveret
RUN install --directory --owner leveret --group leveret --mode 0700 /var/lib/leveret
COPY --from=build /opt/leveret /opt/leveret

# Outside, nobody is on the container's loopback: guest may log in from everywhere, as in RabbitMQ's own image.
# Set LEVERET_DEFAULT_USER and LEVERET_DEFAULT_PASSWORD before you publish the port. 5671 is for LEVERET_TLS_PORT.
ENV PATH=/opt/leveret/bin:$PATH \
    LEVERET_DATA_DIR=/var/lib/leveret \
    LEVERET_HOST=0.0.0.0 \
    LEVERET_HTTP_HOST=0.0.0.0 \
    LEVERET_HTTP_PORT=15672 \
    LEVERET_LOOPBACK_USERS=

USER 10001
VOLUME /var/lib/leveret
EXPOSE 5671 5672 15672
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"LEVERET_HTTP_PORT\"]}/readyz', timeout=2)"]
ENTRYPOINT ["leveret"]
CMD ["serve"]
