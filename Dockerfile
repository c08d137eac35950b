# CPU image with the embedded profile. Build: docker build -t mit-builder .
# Run (Ray's workers share memory, so give them some):
#   docker run --rm --shm-size=2g -v "$PWD:/data" mit-builder run --stage all VIDEO...
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 builder

WORKDIR /opt/mit-builder
COPY constraints.txt ./
RUN pip install --no-deps -r constraints.txt

COPY pyproject.toml README.md LICENSE ./
COPY manifests manifests
COPY mit_builder mit_builder
COPY stages stages
RUN pip install --no-deps --no-build-isolation .

USER 1000
WORKDIR /data
ENTRYPOINT ["mit-build"]
CMD ["run", "--stage", "all"]
