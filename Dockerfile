# Two images of the same program:
#   docker build -t mit-builder .                              CPU, profile embedded (the last stage is the default)
#   docker build -t mit-builder:paper --target paper .         CUDA, profile paper: numpy 2, torch, no mediapipe
# Run (Ray's workers share memory, so give them some):
#   docker run --rm --shm-size=2g -v "$PWD:/data" mit-builder run --stage all VIDEO...
FROM python:3.11-slim AS base

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH

RUN useradd --create-home --uid 1000 builder \
    && install -d -o 1000 -g 1000 /data
WORKDIR /opt/mit-builder

# The program alone: a change of it leaves the layer with the packages, which is the large one, as it is.
FROM base AS program
COPY pyproject.toml README.md LICENSE ./
COPY manifests manifests
COPY mit_builder mit_builder
COPY stages stages

FROM base AS packages-paper
COPY constraints-paper.txt ./
# torch brings CUDA's libraries; it comes first, as pip would complain of what the lock leaves out.
RUN python -m venv /opt/venv \
    && pip install -c constraints-paper.txt torch==2.13.0 \
    && pip install --no-deps -r constraints-paper.txt

FROM base AS packages-embedded
COPY constraints.txt ./
RUN python -m venv /opt/venv \
    && pip install --no-deps -r constraints.txt

FROM base AS paper
COPY --from=packages-paper /opt/venv /opt/venv
COPY --from=program /opt/mit-builder /opt/mit-builder
RUN pip install --no-deps --no-build-isolation .
USER 1000
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=1m --start-period=2m \
    CMD ["mit-build", "doctor", "--workspace", "/tmp/health"]
ENTRYPOINT ["mit-build"]
CMD ["run", "--stage", "all"]

FROM base AS embedded
COPY --from=packages-embedded /opt/venv /opt/venv
COPY --from=program /opt/mit-builder /opt/mit-builder
RUN pip install --no-deps --no-build-isolation .
USER 1000
WORKDIR /data
HEALTHCHECK --interval=5m --timeout=1m --start-period=2m \
    CMD ["mit-build", "doctor", "--workspace", "/tmp/health"]
ENTRYPOINT ["mit-build"]
CMD ["run", "--stage", "all"]
